"""The deployments, put together."""

import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from ..settings import Settings, load_settings
from .autoscaling import ScalingPolicy
from .engine_replica import EngineReplica
from .engine_resources import engine_resources
from .ingress import ENGINE, INGRESS, QUOTAS, IngressReplica, has_quotas, ingress_app
from .request_router import PromptRouter
from .shared_quotas import QuotaKeeper

# Streams of ingresses, those included that a rolling update is about to end.
_SPARE_CALLS = 32
_INGRESS_REQUESTS = 4096
_REPORT_PERIOD_S = 1.0
_QUEUED_TOKENS_PER_REPLICA = 16384
_COMMON: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 20.0,
    "logging_config": {"enable_access_log": False},  # a line for each request is ours
}


def application(args: Mapping[str, Any]) -> serve.Application:
    """For a Serve config's import_path. args: settings by their names; others are the variables of
    the node that builds this. Raises SettingsError."""
    return to_application(load_settings({**args, "cluster": "ray"}, os.environ))


def to_application(settings: Settings) -> serve.Application:
    """Call it with a connection to the cluster."""
    engine = serve.deployment(EngineReplica).options(
        name=ENGINE,
        ray_actor_options=engine_resources(settings),
        # The engine's own bounds refuse what is too much; Ray's would refuse streams, too.
        max_ongoing_requests=settings.max_num_seqs
        + settings.max_queued_requests
        + 2 * settings.ingress_replicas
        + _SPARE_CALLS,
        # Of all replicas together, by each ingress.
        max_queued_requests=(settings.max_replicas or settings.replicas)
        * settings.max_queued_requests
        + _SPARE_CALLS,
        request_router_config=RequestRouterConfig(
            request_router_class=PromptRouter,
            request_routing_stats_period_s=_REPORT_PERIOD_S,
        ),
        **_COMMON,
        **_draining(settings),
        **_scaling(settings),
    )
    ingress = serve.deployment(serve.ingress(ingress_app(settings))(IngressReplica)).options(
        name=INGRESS,
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=_INGRESS_REQUESTS,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        **_COMMON,
        **_draining(settings),
    )
    parts = [engine.bind(settings)]
    if has_quotas(settings):
        keeper = serve.deployment(QuotaKeeper).options(
            name=QUOTAS,
            max_ongoing_requests=_INGRESS_REQUESTS,
            ray_actor_options={"num_cpus": 0},
            max_surge_percent=100,  # takes no room: in an update the new one is there first
            **_COMMON,
        )
        parts.append(keeper.bind(settings.requests_per_minute, settings.tokens_per_minute))
    return ingress.bind(*parts)


def _draining(settings: Settings) -> dict[str, Any]:
    """A replica that is to go finishes what it has, which takes max_request_s at the most."""
    return {
        "graceful_shutdown_timeout_s": settings.max_request_s,
        "graceful_shutdown_wait_loop_s": 1.0,
    }


def _scaling(settings: Settings) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    bounds = {
        "max_num_seqs": settings.max_num_seqs,
        "max_queued_tokens": _QUEUED_TOKENS_PER_REPLICA,
    }
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=settings.max_replicas,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            policy=AutoscalingPolicy(policy_function=ScalingPolicy, policy_kwargs=bounds),
        )
    }
