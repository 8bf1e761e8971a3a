"""Who may ask (keys), how often (rates) and how much (sizes), settled before a request is read."""

import base64
import hashlib
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, problem_response
from app.settings import Settings

log = logging.getLogger(__name__)

API = "/api/"
VISITOR_COOKIE = "glow-visitor"
KEY_PROTOCOL = "key."  # and the key in base64url: a browser's WebSocket can send no other header


def _digest(secret: str) -> str:
    """What stands for a secret in the store: it cannot be turned back."""
    return hashlib.sha256(secret.encode()).hexdigest()[:32]


def _key(headers: Headers) -> str:
    """The key that a request bears, "" for none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(KEY_PROTOCOL):
            return _decoded(protocol.strip().removeprefix(KEY_PROTOCOL))
    return headers.get("x-api-key", "")


def _decoded(text: str) -> str:
    """Of base64url without padding; "" where it is not that."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:  # of what is no base64, no ASCII or no UTF-8
        return ""


class Keys:
    """The API keys that are accepted, of which only digests are held."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, headers: Headers) -> str | None:
        """Who a request comes from; None without a key that is accepted."""
        digest = _digest(_key(headers))
        # no early end: the time taken says nothing of which key was nearly right
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest if any(matches) else None


class Rates:
    """Counts requests, in Redis where there is one, so that replicas count together."""

    TIMEOUT = 0.5  # seconds; counting is not worth a longer wait

    def __init__(self, rate: str, redis_url: str | None) -> None:
        self._limit: RateLimitItem = parse(rate)
        storage: Storage = MemoryStorage()
        if redis_url:
            storage = RedisStorage(
                redis_url,
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix="glow:rate",
                socket_timeout=self.TIMEOUT,
                socket_connect_timeout=self.TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
            )
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def count(self, who: str) -> tuple[bool, dict[str, str]]:
        """Counts a request; whether it may pass, and the headers that say how many more may.

        The headers are of draft-ietf-httpapi-ratelimit-headers. While Redis cannot be reached
        everything passes: what needs the store is refused there.
        """
        try:
            passes = await self._limiter.hit(self._limit, who)
            window = await self._limiter.get_window_stats(self._limit, who)
        except StorageError as error:
            log.warning("requests go uncounted: %s", error)
            return True, {}
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        quota = f"q={self._limit.amount};w={self._limit.get_expiry()}"
        headers = {
            "RateLimit-Policy": f'"default";{quota}',
            "RateLimit": f'"default";r={window.remaining};t={seconds}',
        }
        return passes, headers if passes else {**headers, "Retry-After": str(seconds)}

    def __str__(self) -> str:
        return str(self._limit)


def _address(scope: Scope) -> str:
    """The client's address; of IPv6 the network, whose addresses are all one client's."""
    host, _ = scope.get("client") or ("", 0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket, or a test
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def visitor_of(token: str) -> str:
    return "visitor-" + _digest(token)


class Gate:
    """Lets a request to the API pass with a key, where keys are asked for, and within the rate.

    It leaves in the request's state its `owner`, to whom what it makes belongs ("" where no keys
    are asked for), and its `visitor`, the same where there is one, else the browser's cookie: who
    has no key still has attributes of their own.
    """

    def __init__(self, app: ASGIApp, keys: Keys, rates: Rates | None) -> None:
        self.app = app
        self.keys = keys
        self.rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state.update(owner="", visitor="")
        if not scope["path"].startswith(API):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        owner = self.keys.owner(headers) if self.keys else ""
        told: dict[str, str] = {}
        if self.rates:
            passes, told = await self.rates.count(owner or _address(scope))
            if not passes:
                words = f"Too many requests; {self.rates} are accepted. Try again a little later."
                await problem_response(429, "too-many-requests", words, told)(scope, receive, send)
                return
        if owner is None:
            words = (
                "This needs an API key: send one that is accepted as Authorization: Bearer … or "
                "as X-API-Key: …."
            )
            told["WWW-Authenticate"] = "Bearer"
            await problem_response(401, "key-needed", words, told)(scope, receive, send)
            return
        token = HTTPConnection(scope).cookies.get(VISITOR_COOKIE, "")
        visitor = owner or (token and visitor_of(token))
        state.update(owner=owner, visitor=visitor)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await self.app(scope, receive, telling)


class BodyLimit:
    """Refuses a request body past `max_bytes`: at once if it states its length, else as it grows.

    Starlette's own limit answers in plain text; every failure of ours is a problem document.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = Problem(
            413,
            "body-too-large",
            f"The request is too large; up to {self.max_bytes} bytes are accepted.",
        )
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self.max_bytes:
            response = problem_response(413, problem.kind, problem.detail)
            await response(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise problem
            return message

        await self.app(scope, limited, send)


def install(app: FastAPI, settings: Settings) -> None:
    """The limits of the settings, the first asked last: CORS answers a browser's preflight, which
    bears no key."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_upload_bytes)
    keys = Keys(key.get_secret_value() for key in settings.api_keys)
    rates = Rates(settings.rate_limit, settings.redis_url) if settings.rate_limit else None
    app.add_middleware(Gate, keys=keys, rates=rates)
    if keys:
        _document_keys(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "If-None-Match", "Content-Type"],
            expose_headers=["ETag", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"],
        )


def _document_keys(app: FastAPI) -> None:
    """The OpenAPI page then has a place for one."""
    document = app.openapi

    def with_keys() -> dict[str, Any]:
        schema = document()
        schema["components"]["securitySchemes"] = {
            "Bearer": {"type": "http", "scheme": "bearer"},
            "Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"Bearer": []}, {"Key": []}]
        return schema

    app.openapi = with_keys  # type: ignore[method-assign]
