"""WS /live: a hand on a slider, and the newest picture as fast as the device gives it."""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from pydantic import Field, ValidationError

from app import photos
from app.api.parts import Parts, PartsOf
from app.api.pictures import edited
from app.errors import Problem, invalid_request, problem_document
from app.photos import Format
from app.schemas import EditRequest

log = logging.getLogger(__name__)

router = APIRouter()

DESCRIPTION = """\
**`WS /api/v1/live`** is `/edit` for a hand on a slider. Send text frames of JSON, what `/edit`
takes and a number of your own:

```json
{"latent_id": "…", "attributes": {"smiling": 0.4}, "output": "crop", "seq": 17}
```

Each answer is a binary frame: `seq` as four bytes, big-endian, then the picture in the format that
the address asks for: `?format=jpeg` (the default), `webp` or `png`. While a picture is being made,
only the newest of the frames that arrive is kept; the others are skipped, without an answer. What
goes wrong is told in a text frame, a problem document with the `seq` of the frame it is about
(`null` where that cannot be read), and the connection stays open. Pages of other origins are
refused (403), unless CORS is open to them. A browser, whose WebSocket sends no headers of one's
own, gives a key as a subprotocol: `glow-live` and, after it, `key.` with the key in base64url.
"""

PROTOCOL = "glow-live"  # answered to who offers it, so that a key offered beside it is not

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class LiveRequest(EditRequest):
    seq: Annotated[int, Field(ge=0, lt=2**32)]


def _may_connect(socket: WebSocket, cors_origins: list[str]) -> bool:
    """Browsers say which origin's page asks; programs, which may lie anyway, say nothing."""
    origin = socket.headers.get("origin")
    return (
        origin is None
        or urlsplit(origin).netloc == socket.headers.get("host")
        or bool({origin, "*"} & set(cors_origins))
    )


class _Newest:
    """What a connection sent last, while it waits to be answered."""

    def __init__(self) -> None:
        self._frame: str | bytes = b""
        self._arrived = asyncio.Event()

    def put(self, frame: str | bytes) -> bool:
        """Whether an older one was dropped for it."""
        dropped = self._arrived.is_set()
        self._frame = frame
        self._arrived.set()
        return dropped

    async def take(self) -> str | bytes:
        await self._arrived.wait()
        self._arrived.clear()
        return self._frame


@router.websocket("/live")
async def live(
    socket: WebSocket, parts: PartsOf, format: Annotated[Format, Query()] = "jpeg"
) -> None:
    if not _may_connect(socket, parts.settings.cors_origins):
        await socket.close(POLICY_VIOLATION)
        return
    await socket.accept(PROTOCOL if PROTOCOL in socket["subprotocols"] else None)
    metrics, newest = parts.metrics, _Newest()

    async def answer_each() -> None:
        with suppress(WebSocketDisconnect):
            while True:
                outcome = await _answer(parts, socket, await newest.take(), format)
                metrics.live_frames.labels(outcome).inc()

    answering = asyncio.create_task(answer_each())
    metrics.live_connections.inc()
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            if newest.put(message.get("text") or message.get("bytes") or ""):
                metrics.live_frames.labels("skipped").inc()
    finally:
        metrics.live_connections.dec()
        answering.cancel()


async def _answer(parts: Parts, socket: WebSocket, frame: str | bytes, format: Format) -> str:
    """Sends the picture, or the problem; says which."""
    try:
        request = LiveRequest.model_validate_json(frame)
        pixels = await edited(parts, request)
        picture = await asyncio.to_thread(photos.write, pixels, format)
    except ValidationError as error:
        detail, errors = invalid_request(error.errors())
        problem = problem_document(422, "invalid-request", detail, errors=errors)
    except Problem as error:
        problem = problem_document(error.status_code, error.kind, error.detail)
    except Exception as error:
        log.error("unexpected failure", exc_info=error)
        problem = problem_document(500, "internal", "Something went wrong on our side.")
    else:
        await socket.send_bytes(request.seq.to_bytes(4, "big") + picture)
        return "answered"
    await socket.send_json({**problem, "seq": _seq_of(frame)})
    return "refused"


def _seq_of(frame: str | bytes) -> int | None:
    """The number of a frame that may be anything."""
    with suppress(ValueError, RecursionError):
        message = json.loads(frame)
        if isinstance(message, dict) and type(message.get("seq")) is int:
            return int(message["seq"])
    return None
