"""Captures for static_decode.py on a GPU. Not run on one by its authors yet."""

from collections.abc import Callable

import torch

# The first run of a kernel may compile it or choose among several, which cannot be captured.
_WARM_UP_RUNS = 2


class CudaGraphs:
    """Captures graphs that share their memory: they are replayed one after the other, and what one
    leaves behind for later lies outside of it."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """A MakeGraph, in the sense of static_decode.py."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph
