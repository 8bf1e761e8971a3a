"""What the endpoints share: the parts they call, and the picture they answer with."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from app import photos
from app.engine import Engine
from app.errors import Problem
from app.latents import LatentStore, Record
from app.photos import Format, Pixels
from app.settings import Settings


@dataclass(frozen=True)
class Parts:
    settings: Settings
    engine: Engine
    store: LatentStore

    async def record(self, latent_id: str, *, photo: bool = False) -> tuple[Record, int]:
        """A stored record of the model that is served, and its remaining seconds."""
        record, seconds = await self.store.get(latent_id, photo=photo)
        if record.model != self.engine.bundle.name:
            raise Problem(
                409,
                "latent-of-another-model",
                f"The latent belongs to the model {record.model}; this server has "
                f"{self.engine.bundle.name}. Upload the photograph again.",
            )
        return record, seconds


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(_parts)]

FORMATS: dict[str, Format] = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}


def _format(request: Request) -> Format:
    """The best picture format that the Accept header takes, PNG before the others."""
    weights = {}
    for entry in request.headers.get("accept", "*/*").split(","):
        kind, *parameters = (piece.strip() for piece in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[kind.lower()] = float(quality)
        except ValueError:
            weights[kind.lower()] = 0.0
    any_kind = weights.get("image/*", weights.get("*/*", 0.0))
    best = max(FORMATS, key=lambda kind: weights.get(kind, any_kind))
    if weights.get(best, any_kind) <= 0:
        raise Problem(
            406, "not-acceptable", f"Pictures are answered as {', '.join(FORMATS)}, none accepted."
        )
    return FORMATS[best]


FormatOf = Annotated[Format, Depends(_format)]

PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture, in the format of the Accept header.",
        "content": {
            kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in FORMATS
        },
    }
}


async def picture(pixels: Pixels, format: Format) -> Response:
    data = await asyncio.to_thread(photos.write, pixels, format)
    return Response(data, media_type=f"image/{format}", headers={"Vary": "Accept"})
