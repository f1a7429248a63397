"""What of a cluster an engine takes."""

import ray

from ..settings import Settings


def engine_resources(settings: Settings) -> dict[str, float]:
    """num_cpus and num_gpus. Call it with a connection to the cluster."""
    uses_gpu = settings.device == "cuda" or (
        settings.device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1
    )
    return {"num_cpus": settings.replica_cpus, "num_gpus": 1 if uses_gpu else 0}
