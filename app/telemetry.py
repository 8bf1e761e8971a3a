"""What operators see: Prometheus metrics, and logs in JSON with a request's id. Nothing of a
photograph, no name and no latent id is in either."""

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
# hexadecimal, as proxies make them: a latent id, which is not, cannot get into the logs this way
ACCEPTED_ID = re.compile(r"[0-9a-fA-F-]{8,64}")

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "glow_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "glow_request_seconds",
            "From a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=[0.005 * 2**i for i in range(14)],
            registry=registry,
        )
        self.in_progress = Gauge(
            "glow_requests_in_progress", "Requests being answered.", registry=registry
        )
        self.cache_hits = Counter(
            "glow_cache_hits",
            "Pictures that the client had already, and was told so (304, or to POST 412).",
            registry=registry,
        )
        self.live_connections = Gauge(
            "glow_live_connections", "Open connections of /live.", registry=registry
        )
        self.live_frames = Counter(
            "glow_live_frames",
            "Frames of /live: answered, skipped for a newer one, or refused.",
            ["outcome"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "glow_queue_depth", "Requests that wait for the device.", registry=registry
        )
        self.batch_size = Histogram(
            "glow_batch_size",
            "Requests in one batch.",
            ["work"],
            buckets=[2**i for i in range(8)],
            registry=registry,
        )
        self.device_seconds = Histogram(
            "glow_device_seconds",
            "Time of the device for one batch.",
            ["work"],
            buckets=[0.001 * 2**i for i in range(15)],
            registry=registry,
        )
        self.latents_alive = Gauge(
            "glow_latents_alive",
            "Latents in the store; NaN while it is out of reach.",
            registry=registry,
        )

    def batch(self, work: str, size: int, seconds: float) -> None:
        self.batch_size.labels(work).observe(size)
        self.device_seconds.labels(work).observe(seconds)


class Telemetry:
    """Counts, times and logs every request, and names it in its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = stated if ACCEPTED_ID.fullmatch(stated) else secrets.token_hex(16)
        status = 0  # where the client had gone before it was answered

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        token = _request_id.set(request_id)
        start = time.perf_counter()
        try:
            with self.metrics.in_progress.track_inprogress():
                await self.app(scope, receive, named)
        finally:
            self._record(scope, status, time.perf_counter() - start)
            _request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "page")  # the template: paths hold ids
        self.metrics.requests.labels(method, route, str(status or "gone")).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        if status in (304, 412):
            self.metrics.cache_hits.inc()
        fields = {"method": method, "route": route, "status": status or None}
        log.info("request", extra={**fields, "milliseconds": round(seconds * 1000, 1)})


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def _with_request_id(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if request_id := _request_id.get():
            made.request_id = request_id
        return made

    return record


def configure_logs() -> None:
    """One JSON object a line on standard error, each with the id of the request it is about."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.setLogRecordFactory(_with_request_id(logging.getLogRecordFactory()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
