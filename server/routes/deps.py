"""What handlers need of the application. Coroutines: plain functions would each cost a hop to a
worker thread."""

from typing import Annotated

from fastapi import Depends, Request

from scoring.engine_client import EngineClient

from ..completion import Processor


async def _engine(request: Request) -> EngineClient:
    engine: EngineClient = request.app.state.engine
    return engine


async def _processor(request: Request) -> Processor:
    processor: Processor = request.app.state.processor
    return processor


EngineDep = Annotated[EngineClient, Depends(_engine)]
ProcessorDep = Annotated[Processor, Depends(_processor)]
