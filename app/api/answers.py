"""Pictures as answers: their format, and the tag by which a client knows one it has already."""

import asyncio
import hashlib
import json
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from app import photos
from app.errors import Problem
from app.photos import Animation, Format, Pixels

FORMATS: dict[str, Format] = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}
ANIMATIONS: dict[str, Animation] = {"image/gif": "gif", "image/webp": "webp"}

F = TypeVar("F", Format, Animation)


def accepted(request: Request) -> dict[str, float]:
    """The kinds of the Accept header with their weights."""
    weights = {}
    for entry in request.headers.get("accept", "*/*").split(","):
        kind, *parameters = (piece.strip() for piece in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[kind.lower()] = float(quality)
        except ValueError:
            weights[kind.lower()] = 0.0
    return weights


async def format_of(request: Request) -> Format:
    """The best picture format that the Accept header takes, PNG before the others."""
    return _best(request, FORMATS)


def animation_of(request: Request) -> Animation:
    """The same for animations, GIF before WebP."""
    return _best(request, ANIMATIONS)


def _best(request: Request, formats: dict[str, F]) -> F:
    weights = accepted(request)
    any_kind = weights.get("image/*", weights.get("*/*", 0.0))
    best = max(formats, key=lambda kind: weights.get(kind, any_kind))
    if weights.get(best, any_kind) <= 0:
        raise Problem(
            406, "not-acceptable", f"Pictures are answered as {', '.join(formats)}, none accepted."
        )
    return formats[best]


FormatOf = Annotated[Format, Depends(format_of)]

PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, in the format of the Accept header.",
        "content": {
            kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in FORMATS
        },
        "headers": {
            "ETag": {
                "description": "Names this picture: the same request gives the same bytes.",
                "schema": {"type": "string"},
            }
        },
    }
}

VERSION = version("glow-editor")


def tag_of(model: str, *what: object) -> str:
    """A strong entity tag (RFC 9110, section 8.8.3) of what a picture is made of."""
    identity = json.dumps([VERSION, model, *what])
    return f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """The answer to a client that has this very picture: 304 where the method is GET. To any other
    method, RFC 9110, section 13.1.2, gives 412 for that; it is raised."""
    known = [entry.strip() for entry in request.headers.get("if-none-match", "").split(",")]
    if not {tag, f"W/{tag}", "*"} & set(known):
        return None
    headers = {"ETag": tag, "Vary": "Accept"}
    if request.method == "GET":
        return Response(status_code=304, headers=headers)
    raise Problem(
        412,
        "unchanged",
        "This is the picture that If-None-Match names; it is not sent again.",
        headers,
    )


async def picture(pixels: Pixels, format: Format, tag: str) -> Response:
    return _answer(await asyncio.to_thread(photos.write, pixels, format), format, tag)


async def animation(frames: list[Pixels], format: Animation, tag: str) -> Response:
    return _answer(await asyncio.to_thread(photos.animate, frames, format), format, tag)


def _answer(data: bytes, format: str, tag: str) -> Response:
    headers = {"Vary": "Accept", "ETag": tag}
    return Response(data, media_type=f"image/{format}", headers=headers)
