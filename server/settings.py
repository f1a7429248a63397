"""Every setting of the server, from flags, PHI3V_* variables, a TOML file and defaults, in that
order. Built once in the command line and passed on; nothing else reads the environment."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from scoring.engine_config import (
    AttentionName,
    DeviceName,
    DtypeName,
    KVCacheDtypeName,
    QuantizationName,
)

from .access_settings import AccessSettings
from .cluster_settings import ClusterSettings
from .image_settings import ImageSettings
from .limit_settings import LimitSettings
from .telemetry_settings import TelemetrySettings, telemetry_of

_PREFIX = "PHI3V_"
# Azure ML's front end gives up on a request after 180 seconds.
_AZUREML_REQUEST_S = 170
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SettingsError(ValueError):
    """A setting is unknown or has a value that it must not have."""


class Settings(ClusterSettings, TelemetrySettings, ImageSettings, LimitSettings, AccessSettings):
    """Field names are flags (--max-model-len) and variables (PHI3V_MAX_MODEL_LEN) alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None,
        description="A checkpoint's directory, or one up to four levels above it; or a hub id. "
        "Unset: AZUREML_MODEL_DIR, else the hub's cache, else the small DEMO model.",
    )
    revision: str | None = Field(
        None, description="Commit of the hub id. Unset: the one pinned for a model we know."
    )
    card: str | None = Field(
        None, description="The model card (name and rules). Unset: by the checkpoint's own name."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(5001, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    device: DeviceName = Field("auto", description="auto: CUDA where there is a device.")
    dtype: DtypeName = Field(
        "auto",
        description="auto: bfloat16 on CUDA where native, else float16; float32 on a CPU.",
    )
    quantization: QuantizationName = Field(
        "none",
        description="int8: the decoder's weights in 8 bits, and its inputs as they come: faster, "
        "and a little less exact. On a CPU with AVX-512.",
    )
    attention: AttentionName = Field(
        "auto",
        description="auto: the fastest that gives the right answers on the device, tried at every "
        "start; flash_attn needs its package.",
    )
    kv_cache_dtype: KVCacheDtypeName = Field(
        "auto",
        description="fp8: keys and values in 8 bits, half of the memory and a little less exact; "
        "for the attentions triton and sdpa. auto: as dtype.",
    )
    max_model_len: int | None = Field(
        None,
        ge=2,
        description="Prompt and answer together, in tokens. Unset: what model and memory allow.",
    )
    max_num_seqs: int = Field(
        32, ge=1, le=1024, description="Requests that run at once; each takes a row of every step."
    )
    max_num_batched_tokens: int = Field(
        2048,
        ge=16,
        le=131072,
        description="Tokens of a step; a longer prompt is computed in several steps.",
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Memory for keys and values. Unset: measured (on a CPU at most 4)."
    )
    feature_cache_mib: int = Field(
        512, ge=0, description="Memory for the features of pictures that may come again."
    )
    engine_process: bool = Field(
        True, description="Run the engine in a process of its own, beside the one that answers."
    )
    playground: bool = Field(
        True, description="Show a page at /playground, and to browsers at /, to try the model on."
    )
    data_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="Engines: one per GPU, or on a CPU, sharing its cores. The bounds on what may "
        "wait are for all together, other sizes for each.",
    )
    drain_s: float = Field(
        25,
        ge=0,
        description="Seconds that running requests get to finish after SIGTERM, while new ones are "
        "answered 503; then they are cut off.",
    )
    stall_s: float | None = Field(
        None,
        gt=0,
        description="Seconds without a step, though there is work, after which /health/live is "
        "503. Unset: 60, on a CPU 600.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}; "
                f"at least max_num_seqs, {self.max_num_seqs}"
            )
        if self.data_parallel > 1 and not self.engine_process:
            raise ValueError(
                f"data_parallel is {self.data_parallel}: engines in threads would wait for each "
                "other's turn at the interpreter; let each have its engine_process"
            )
        self._check_cluster()
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key need each other")
        if self.asks_who_calls and self.no_auth:
            raise ValueError("no_auth excludes api_key, api_key_file and entra_tenant")
        if not self.asks_who_calls and not self.no_auth and self.host not in _LOOPBACK:
            raise ValueError(
                f"host is {self.host!r}, beyond loopback: give an api_key, an api_key_file or an "
                "entra_tenant, or no_auth to let anyone call"
            )
        return self

    def _check_cluster(self) -> None:
        if self.cluster == "none":
            return
        if self.data_parallel > 1:
            raise ValueError(
                f"data_parallel is {self.data_parallel}: in a cluster each engine is a replica, "
                "give replicas"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}; at least replicas, {self.replicas}"
            )


def load_settings(
    flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Merge the sources; flags that are None were not given.

    Raises SettingsError, in one line that names the source, the setting and what is wrong.
    """
    merged = {name: value for name, (value, _) in merge_sources(flags, environ, file).items()}
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(e) for e in error.errors())) from None


def merge_sources(
    flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None
) -> dict[str, tuple[Any, str]]:
    """What is given, by name: the value that counts and the source that it is from. Raises
    SettingsError for an unknown name, and for a file that cannot be read."""
    given = {name: value for name, value in flags.items() if value is not None}
    variables = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(_PREFIX)
    }
    sources = {"flag": given, "variable": variables, "file": _read(file) if file else {}}
    for source, values in sources.items():
        for name in values:
            _check_name(name, source)
    merged: dict[str, tuple[Any, str]] = {}
    if mount := environ.get("AZUREML_MODEL_DIR"):
        platform = {"model": mount, "max_request_s": _AZUREML_REQUEST_S}
        merged = {name: (value, "AZUREML_MODEL_DIR") for name, value in platform.items()}
    for name, (value, variable) in telemetry_of(environ).items():
        merged[name] = value, variable
    for source in ("file", "variable", "flag"):
        merged |= {name: (value, source) for name, value in sources[source].items()}
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not readable, not UTF-8 or not TOML
        raise SettingsError(f"the settings file {file} cannot be read: {error}") from error


def _check_name(name: str, source: str) -> None:
    if name not in Settings.model_fields:
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        shown = _PREFIX + name.upper() if source == "variable" else name
        raise SettingsError(f"unknown setting {shown} ({source}){hint}")


def _sentence(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    value = "" if where == "api_key" else f" is {error['input']!r}"
    return f"{where}{value}: {message}"
