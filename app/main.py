"""The application: wires the parts, and owns their start and stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.formparsers import MultiPartParser
from starlette.middleware.gzip import GZipMiddleware

from app import docs, errors, limits
from app.api import attributes, health, latents, live, model, pictures
from app.api.parts import Parts
from app.attributes import AttributeStore, MemoryAttributes, RedisAttributes
from app.device import load
from app.disconnect import CancelOnDisconnect
from app.engine import Engine, LocalEngine, Observe
from app.headers import SecurityHeaders
from app.latents import LatentStore, MemoryStore, RedisStore
from app.settings import Settings
from app.telemetry import Metrics, Telemetry
from model.bundle import BundleError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent.parent / "static"


def local_engine(settings: Settings, observe: Observe) -> Engine:
    return LocalEngine(load(settings), settings.queue, settings.deadline, observe)


def _stores(settings: Settings) -> tuple[LatentStore, AttributeStore]:
    seconds, bytes_ = settings.time_to_live, settings.store_bytes
    if settings.redis_url:
        redis = RedisStore(settings.redis_url, seconds)
        return redis, RedisAttributes(redis.redis, seconds)
    return MemoryStore(seconds, bytes_), MemoryAttributes(seconds, bytes_)


def create_app(
    settings: Settings, make_engine: Callable[[Settings, Observe], Engine] = local_engine
) -> FastAPI:
    """`make_engine` is called at the start, and raises BundleError where there is no model."""
    # uploads stay in memory: past this size, the parser would spool them to a disk
    MultiPartParser.spool_max_size = settings.max_upload_bytes

    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            engine = make_engine(settings, metrics.batch)
        except BundleError as error:
            log.critical("there is no model to serve: %s", error)
            raise
        metrics.queue_depth.set_function(lambda: engine.waiting)
        parts = Parts(settings, engine, *_stores(settings), metrics)
        app.state.parts = parts
        log.info("serving %s on %s", engine.bundle.identity, settings.device)
        yield
        await asyncio.to_thread(engine.close)
        await parts.store.close()

    app = FastAPI(
        title="Glow Editor",
        summary="Edits photographs of faces in the latent space of a normalizing flow.",
        description=live.DESCRIPTION,
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its own is of scripts from elsewhere
        redoc_url=None,
    )
    errors.install(app)
    limits.install(app, settings)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(Telemetry, metrics=metrics)  # outermost: added last
    for router in (
        model.router,
        attributes.router,
        latents.router,
        pictures.router,
        live.router,
    ):
        app.include_router(router, prefix="/api/v1", responses=errors.problem_responses(401, 429))
    app.include_router(health.router)
    docs.install(app)

    # not a mount: one at the root would answer for an address with another method, 404 for 405
    app.router.default = GZipMiddleware(StaticFiles(directory=STATIC, html=True))
    return app
