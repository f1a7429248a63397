"""Probes. Public, cheap, and never waiting for the engine."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from scoring.engine_client import EngineClient, EngineState

from ..json_response import AsciiJSONResponse
from ..loading import loaded_percent
from .deps import EngineDep

router = APIRouter(include_in_schema=False)


@router.get("/")
async def root() -> Response:
    """What Azure ML's own inference server answers here."""
    return PlainTextResponse("Healthy")


@router.get("/health/live")
async def live(engine: EngineDep) -> Response:
    """200 as long as a restart would not help: while the weights load, too."""
    return AsciiJSONResponse(_state(engine), status_code=503 if engine.state.is_lost else 200)


@router.get("/health/ready")
async def ready(engine: EngineDep) -> Response:
    """200 when requests will be taken; with status "degraded" where not all engines are alive."""
    return AsciiJSONResponse(_state(engine), status_code=200 if engine.state.is_serving else 503)


def _state(engine: EngineClient) -> dict[str, object]:
    state: dict[str, object] = {"status": engine.state.value}
    if engine.state is EngineState.LOADING:
        state["percent"] = round(loaded_percent(engine), 1)
    if engine.stats is not None and not engine.state.is_lost:
        state |= {
            "running": engine.stats.num_running,
            "waiting": engine.stats.num_waiting,
            "blocks_total": engine.stats.num_blocks,
            "blocks_free": engine.stats.num_blocks_free,
            "blocks_cached": engine.stats.num_blocks_cached,
        }
    if engine.members:
        state["engines"] = [_state(member) for member in engine.members]
    return state
