"""The engine's own numbers, read when Prometheus asks."""

from collections.abc import Iterable
from importlib.metadata import version

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scoring.engine_client import EngineClient, EngineState

from .loading import loaded_percent

_ENGINE = ("engine",)


class EngineCollector(Collector):
    """Of every engine there is, by its name."""

    def __init__(self, engine: EngineClient, model: str) -> None:
        self._engine = engine
        self._model = model

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is, is known once an engine is ready."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield self._build_info()
        state = GaugeMetricFamily(
            "phi3v_engine_state", "1 for the state it is in.", labels=("state",)
        )
        for one in EngineState:
            state.add_metric((one.value,), self._engine.state is one)
        yield state
        yield GaugeMetricFamily(
            "phi3v_weights_loaded_ratio",
            "Of the weights' bytes.",
            loaded_percent(self._engine) / 100,
        )
        yield GaugeMetricFamily(
            "phi3v_child_processes_resident_memory_bytes",
            "Of the engines' processes and the grammar checker's.",
            _children_memory(),
        )
        yield from self._engines()

    def _build_info(self) -> Metric:
        description = self._engine.description
        labels = {"version": version("phi3v-server"), "model": self._model}
        if description is not None:
            labels |= {
                "device": description.device,
                "dtype": description.dtype,
                "attention": description.attention,
            }
        info = GaugeMetricFamily("phi3v_build_info", "Always 1.", labels=tuple(labels))
        info.add_metric(tuple(labels.values()), 1)
        return info

    def _engines(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            "num_running": GaugeMetricFamily(
                "phi3v_num_requests_running", "Requests in steps.", labels=_ENGINE
            ),
            "num_waiting": GaugeMetricFamily(
                "phi3v_num_requests_waiting", "Requests that wait for a place.", labels=_ENGINE
            ),
            "feature_cache_bytes": GaugeMetricFamily(
                "phi3v_feature_cache_bytes", "Features of pictures, kept.", labels=_ENGINE
            ),
            "num_blocks_leaked": GaugeMetricFamily(
                "phi3v_kv_blocks_leaked", "Cache blocks that are lost, a bug.", labels=_ENGINE
            ),
            "num_preemptions": CounterMetricFamily(
                "phi3v_num_preemptions", "Requests sent back to the queue.", labels=_ENGINE
            ),
            "num_pictures_encoded": CounterMetricFamily(
                "phi3v_images_encoded", "Pictures that were not in the cache.", labels=_ENGINE
            ),
        }
        blocks = GaugeMetricFamily(
            "phi3v_kv_blocks", "Of the key-value cache.", labels=("engine", "state")
        )
        step_age = GaugeMetricFamily(
            "phi3v_engine_step_age_seconds",
            "Since the last step, while there is work.",
            labels=_ENGINE,
        )
        memory = GaugeMetricFamily(
            "phi3v_gpu_memory_bytes", "Of an engine's GPU.", labels=("engine", "kind")
        )
        for engine in self._engine.members or (self._engine,):
            stats, name = engine.stats, engine.name
            if stats is None or engine.state.is_lost:
                continue
            step_age.add_metric((name,), engine.step_age_s)
            for field, family in families.items():
                family.add_metric((name,), getattr(stats, field))
            used = stats.num_blocks - stats.num_blocks_free - stats.num_blocks_cached
            blocks.add_metric((name, "used"), used)
            blocks.add_metric((name, "cached"), stats.num_blocks_cached)
            blocks.add_metric((name, "free"), stats.num_blocks_free)
            if stats.device_memory_total:
                memory.add_metric((name, "used"), stats.device_memory_used)
                memory.add_metric((name, "total"), stats.device_memory_total)
        yield from (*families.values(), step_age, blocks, memory)


def _children_memory() -> int:
    """In bytes. A process that ends meanwhile counts nothing."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:
            continue
    return total
