"""What the engine would run on here, found out without loading weights: for `phi3v doctor`.

A program of its own, `python -m scoring.device_report CONFIG`, as a torch that does not fit the
driver can take its process down. CONFIG: an EngineConfig as JSON, or null where there are no
weights. It prints a DeviceReport as JSON.
"""

import logging
import sys
import warnings
from typing import Any

import msgspec

from model_config import ModelConfigError, from_checkpoint

from .engine_config import EngineConfig
from .errors import ScoringError


class Gpu(msgspec.Struct):
    name: str
    memory_bytes: int
    capability: tuple[int, int]


class DeviceReport(msgspec.Struct):
    """torch: its version. cuda: of torch's build. notes: what the engine's log would say of its
    choices. plan: the memory's, by estimates. failure: why an engine cannot be built."""

    torch: str
    cuda: str | None
    gpus: list[Gpu]
    warnings: list[str]
    notes: list[str] = []
    plan: list[str] = []
    failure: str | None = None


def encode_config(config: EngineConfig | None) -> str:
    return msgspec.json.encode(config, enc_hook=str).decode()


def decode_report(output: bytes) -> DeviceReport:
    """Raises msgspec.MsgspecError."""
    return msgspec.json.decode(output, type=DeviceReport)


def _report(config: EngineConfig | None) -> DeviceReport:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gpus = [_gpu(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]
    said = [str(warning.message).partition("\n")[0] for warning in caught]
    report = DeviceReport(torch.__version__, torch.version.cuda, gpus, said)
    if config is not None:
        listening = _Listening(report.notes)
        logging.getLogger("scoring").addHandler(listening)
        logging.getLogger("scoring").setLevel(logging.INFO)
        try:
            report.plan = _plan(config)
        except (ScoringError, ModelConfigError) as error:
            report.failure = str(error)
    return report


def _gpu(properties: Any) -> Gpu:
    capability = (properties.major, properties.minor)
    return Gpu(properties.name, properties.total_memory, capability)


def _plan(config: EngineConfig) -> list[str]:
    from .backend import choose_backend, device_and_dtype, name_of
    from .engine_memory import estimated_plan, memory_limit
    from .memory_plan import check_weights
    from .weight_files import stored_tensors

    model_config = from_checkpoint(config.checkpoint)
    config.check_context(model_config.text.max_position_embeddings)
    device, dtype = device_and_dtype(config)
    num_elements = sum(t.num_elements for t in stored_tensors(config.checkpoint).values())
    weights = num_elements * dtype.itemsize
    limit, where = memory_limit(config, device)
    check_weights(num_elements, name_of(dtype), dtype.itemsize, limit, where)
    backend = choose_backend(config, model_config, device, dtype, weights)
    return list(estimated_plan(config, model_config, backend, weights, limit, where).lines)


class _Listening(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _from_plain(kind: type[Any], value: Any) -> Any:
    return kind(value)  # the path


def main(config: str) -> None:
    decoded = msgspec.json.decode(config, type=EngineConfig | None, dec_hook=_from_plain)
    report = _report(decoded)
    sys.stdout.buffer.write(msgspec.json.encode(report, enc_hook=str))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
