"""The engine in a thread of this process. It shares the interpreter's lock with the event loop."""

import asyncio
import logging
import queue
import threading

from .engine_config import EngineConfig
from .engine_link import BuildEngine, Call, Message, Receive, Stop
from .engine_loop import run_engine

logger = logging.getLogger(__name__)


class ThreadLink:
    """Both ends: an EngineLink for the event loop, an EngineChannel for the thread."""

    def __init__(self, config: EngineConfig, build: BuildEngine | str, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=run_engine, args=(config, build, self), name="engine", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def send(self, call: Call) -> None:
        self._calls.put(call)

    async def stop(self, *, is_loading: bool) -> None:
        """Loading cannot be interrupted: that thread is not waited for, it dies with the process
        or ends when it has loaded."""
        self._calls.put(Stop())
        if not is_loading:
            await asyncio.to_thread(self._thread.join)

    # The thread's end.

    def next_call(self, *, wait: bool) -> Call | None:
        try:
            return self._calls.get(block=wait)
        except queue.Empty:
            return None

    def tell(self, message: Message) -> None:
        try:
            self._loop.call_soon_threadsafe(self._receive, message)
        except RuntimeError:  # the loop is closed: nobody is there to hear it
            logger.debug("the event loop is closed")
