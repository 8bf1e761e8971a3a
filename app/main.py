"""The application: wires the parts, and owns their start and stop."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.formparsers import MultiPartParser

from app import docs, errors, limits
from app.api import attributes, latents, model, pictures
from app.api.parts import Parts
from app.attributes import AttributeStore, MemoryAttributes, RedisAttributes
from app.engine import Engine
from app.headers import SecurityHeaders
from app.latents import LatentStore, MemoryStore, RedisStore
from app.settings import Settings
from model.bundle import Bundle

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent.parent / "static"


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _stores(settings: Settings) -> tuple[LatentStore, AttributeStore]:
    seconds, bytes_ = settings.time_to_live, settings.store_bytes
    if settings.redis_url:
        redis = RedisStore(settings.redis_url, seconds)
        return redis, RedisAttributes(redis.redis, seconds)
    return MemoryStore(seconds, bytes_), MemoryAttributes(seconds, bytes_)


def create_app(settings: Settings) -> FastAPI:
    # uploads stay in memory: past this size, the parser would spool them to a disk
    MultiPartParser.spool_max_size = settings.max_upload_bytes

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        bundle = Bundle.load(settings.bundle, _device(settings.device))
        parts = Parts(settings, Engine(bundle), *_stores(settings))
        app.state.parts = parts
        log.info("serving %s on %s", bundle.name, settings.device)
        yield
        parts.engine.close()
        await parts.store.close()

    app = FastAPI(
        title="Glow Editor",
        summary="Edits photographs of faces in the latent space of a normalizing flow.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its own is of scripts from elsewhere
        redoc_url=None,
    )
    errors.install(app)
    limits.install(app, settings)
    app.add_middleware(SecurityHeaders)
    for router in (model.router, attributes.router, latents.router, pictures.router):
        app.include_router(router, prefix="/api/v1")
    docs.install(app)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    # not a mount: one at the root would answer for an address with another method, 404 for 405
    app.router.default = StaticFiles(directory=STATIC, html=True)
    return app
