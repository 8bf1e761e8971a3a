"""What those who run the service ask: is it alive, can it serve, how is it doing."""

import math

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api.parts import PartsOf
from app.errors import Problem, problem_responses
from app.schemas import Status

router = APIRouter(tags=["health"])


@router.get("/healthz", responses=problem_responses(503))
async def healthz(parts: PartsOf) -> Status:
    """Whether the process works; where it does not, only a restart helps."""
    if not parts.engine.healthy:
        raise Problem(503, "engine-failed", "The model fails at everything; restart the server.")
    return Status(status="ok")


@router.get("/readyz", responses=problem_responses(503))
async def readyz(parts: PartsOf) -> Status:
    """Whether requests can be served now: the model takes work and the store answers."""
    await healthz(parts)
    await parts.store.ping()
    return Status(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
async def metrics(parts: PartsOf) -> Response:
    """Prometheus metrics."""
    try:
        alive: float = await parts.store.count()
    except Problem:
        alive = math.nan
    parts.metrics.latents_alive.set(alive)
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
