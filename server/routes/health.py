"""Probes. Those that platforms ask are public and cheap, and never wait for the engine."""

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from scoring.engine_client import EngineClient, EngineState, EngineView, is_stalled

from ..canary import Canary
from ..drain import Drain
from ..json_response import AsciiJSONResponse
from ..loading import Loading, loaded_percent, loading_stage
from ..playground_files import PAGE_PATH
from .deps import EngineDep

router = APIRouter(include_in_schema=False)


@router.get("/")
async def root(request: Request) -> Response:
    """What Azure ML's own inference server answers here; a browser gets to the playground."""
    if request.app.state.has_playground and "text/html" in request.headers.get("accept", ""):
        # Relative, for whoever comes by a prefix that a proxy took off.
        return RedirectResponse(PAGE_PATH.removeprefix("/"), headers={"Vary": "Accept"})
    return PlainTextResponse("Healthy", headers={"Vary": "Accept"})


@router.get("/health/live")
async def live(request: Request, engine: EngineDep) -> Response:
    """200 as long as a restart would not help: while the weights load, too. 503 when the engine is
    gone, or has work and makes no step."""
    helps = engine.state.is_lost or is_stalled(engine, request.app.state.stall_s)
    return AsciiJSONResponse(_state(request, engine), status_code=503 if helps else 200)


@router.get("/health/ready")
async def ready(request: Request, engine: EngineDep) -> Response:
    """200 when requests will be taken; with status "degraded" where not all engines are alive."""
    state = _state(request, engine)
    takes = state["status"] in (EngineState.READY, EngineState.DEGRADED)
    return AsciiJSONResponse(state, status_code=200 if takes else 503)


@router.get("/health/deep")
async def deep(request: Request) -> Response:
    """200 when a token has come out of the engine. Not public: it takes a place in a step."""
    canary: Canary = request.app.state.canary
    outcome = await canary.outcome()
    return AsciiJSONResponse(outcome, status_code=200 if outcome["status"] == "ok" else 503)


def _state(request: Request, engine: EngineClient) -> dict[str, object]:
    state = _engine_state(engine)
    drain: Drain = request.app.state.drain
    loading: Loading = request.app.state.loading
    if drain.has_begun:
        state["status"] = "draining"
    elif engine.state is EngineState.LOADING:
        if loading.eta_s is not None:
            state["eta_s"] = round(loading.eta_s, 1)
    elif engine.state.is_serving and not loading.is_warm:
        state |= {"status": "warming", "percent": 100.0}
    elif engine.state.is_serving and is_stalled(engine, request.app.state.stall_s):
        state["status"] = "stalled"
    return state


def _engine_state(engine: EngineView) -> dict[str, object]:
    if engine.state is EngineState.LOADING:
        return {"status": loading_stage(engine), "percent": round(loaded_percent(engine), 1)}
    state: dict[str, object] = {"status": engine.state.value}
    if engine.stats is not None and not engine.state.is_lost:
        state |= {
            "running": engine.stats.num_running,
            "waiting": engine.stats.num_waiting,
            "blocks_total": engine.stats.num_blocks,
            "blocks_free": engine.stats.num_blocks_free,
            "blocks_cached": engine.stats.num_blocks_cached,
            "last_step_age_s": round(engine.step_age_s, 2),
        }
    if engine.members:
        state["engines"] = [
            {"name": member.name} | _engine_state(member) for member in engine.members
        ]
    return state
