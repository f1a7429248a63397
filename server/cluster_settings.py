"""Settings of a server on many machines."""

from typing import Literal

from pydantic import BaseModel, Field


class ClusterSettings(BaseModel):
    """Each engine's own sizes are the other settings': they are for every replica alike."""

    cluster: Literal["none", "ray"] = Field(
        "none",
        description="ray: engines and the HTTP application as replicas of Ray Serve, on as many "
        "machines as its cluster has (docs/scale.md); needs the extra.",
    )
    ray_address: str | None = Field(
        None,
        description="A cluster to join: auto for the one that this machine belongs to, or the "
        "host:port of its head. Unset: one is started on this machine, and ends with the server.",
    )
    replicas: int = Field(1, ge=1, le=1024, description="Engines in the cluster, at the least.")
    max_replicas: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Engines at the most: so many are started as running requests and queued "
        "tokens ask for. Unset: replicas, always.",
    )
    upscale_delay_s: float = Field(
        10, ge=0, description="Seconds for which more engines must be asked for until they start."
    )
    downscale_delay_s: float = Field(
        300,
        ge=0,
        description="Seconds for which fewer engines must be enough until the others go: to start "
        "one again takes a while.",
    )
    ingress_replicas: int = Field(
        1,
        ge=1,
        le=128,
        description="Copies of the HTTP application in the cluster, which also decode pictures.",
    )
    ingress_cpus: float = Field(
        1, gt=0, description="Cores of the cluster for each copy of the HTTP application."
    )
    replica_cpus: float = Field(
        1,
        gt=0,
        description="Cores of the cluster for each engine, beside its GPU if it has one; whole "
        "cores for an engine on a CPU.",
    )
