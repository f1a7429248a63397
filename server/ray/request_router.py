"""Ray Serve's question, answered by the fleet: which replica gets this call?

Ray pickles the class with everything in this module, and makes it anew in each process that has a
handle: whatever must be the same object there and elsewhere is in fleet.py.
"""

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from .fleet import fleet_of
from .messages import REPORT, Ticket, decode_report


class PromptRouter(RequestRouter):
    """Sends a Ticket's request where its prompt is known, unless that replica is too busy; and a
    call that names a replica to that one."""

    def initialize_state(self, **_: object) -> None:
        self._fleet = fleet_of(self._deployment_id.app_name, self._deployment_id.name)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._fleet.update(
            {
                replica.replica_id.unique_id: decode_report(data)
                if (data := (replica.routing_stats or {}).get(REPORT))
                else None
                for replica in replicas
            }
        )

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._fleet.lost(replica_id.unique_id)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is not None:  # else Ray asks again at once, and for ever
            pending_request.routing_context.should_backoff = True
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        subject = pending_request.args[0] if pending_request and pending_request.args else None
        if isinstance(subject, str):
            return [[by_name[subject]]] if subject in by_name else []
        if isinstance(subject, Ticket):
            names = self._fleet.choose(subject.sequence_id, subject.prompt)
            return [[by_name[name]] for name in names if name in by_name]
        return [candidate_replicas]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        subject = pending_request.args[0] if pending_request.args else None
        if isinstance(subject, Ticket):
            self._fleet.went(subject.sequence_id, replica_id.unique_id, subject.prompt)
