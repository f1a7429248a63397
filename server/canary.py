"""A token sent all the way through the engine, to see that one comes out."""

import asyncio
import time
from contextlib import aclosing
from uuid import uuid4

from scoring.engine_client import EngineClient
from scoring.errors import ScoringError
from scoring.sequence import SamplingParams, Sequence

_TIMEOUT_S = 5.0
_EVERY_S = 10.0
_TOKEN_ID = 1  # begins every prompt


class Canary:
    """Asks for one token, at most once in ten seconds; who asks sooner hears the last outcome."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._tried: float | None = None
        self._outcome: dict[str, object] = {}

    async def outcome(self) -> dict[str, object]:
        """{"status": "ok" or "failed", …}: the seconds it took, or what was wrong."""
        async with self._lock:
            now = time.monotonic()
            if self._tried is None or now - self._tried >= _EVERY_S:
                self._outcome = await self._try()
                self._tried = now
            return self._outcome

    async def _try(self) -> dict[str, object]:
        start = time.monotonic()
        sequence = Sequence(uuid4().hex, [_TOKEN_ID], SamplingParams(max_tokens=1))
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                aclosing(self._engine.generate(sequence)) as outputs,
            ):
                async for _ in outputs:
                    pass
        except TimeoutError:
            return {"status": "failed", "reason": f"no token within {_TIMEOUT_S:g} s"}
        except ScoringError as error:
            return {"status": "failed", "reason": str(error)}
        return {"status": "ok", "seconds": round(time.monotonic() - start, 4)}
