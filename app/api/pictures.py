"""Latents to pictures: decode and edit."""

import asyncio
import io
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import ValidationError

from app import faces, photos
from app.api.latents import NPY
from app.api.parts import PICTURE, FormatOf, Parts, PartsOf, picture
from app.errors import Problem, problem_responses
from app.latents import Record
from app.photos import Pixels
from app.schemas import DecodeRequest, EditRequest

router = APIRouter(tags=["pictures"])

DECODE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": DecodeRequest.model_json_schema()},
            NPY: {"schema": {"type": "string", "contentMediaType": NPY}},
        },
    }
}


@router.post(
    "/decode",
    response_class=Response,
    responses={**PICTURE, **problem_responses(404, 406, 409, 415, 422, 503)},
    openapi_extra=DECODE_BODY,
)
async def decode(parts: PartsOf, request: Request, format: FormatOf) -> Response:
    """The picture of a latent: a stored one by its id, or the npy file in the body (float32,
    flat, levels in order)."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind == NPY:
        latent = _read_npy(body, parts.engine.bundle.flow.config.dimensions)
    elif kind == "application/json":
        try:
            wanted = DecodeRequest.model_validate_json(body)
        except ValidationError as error:
            raise RequestValidationError(
                [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
            ) from error
        record, _ = await parts.record(wanted.latent_id)
        latent = record.latent
    else:
        raise Problem(
            415, "unsupported-body", f"The body must be application/json or {NPY}, not {kind!r}."
        )
    return await picture(await parts.engine.decode(latent), format)


def _read_npy(body: bytes, dimensions: int) -> NDArray[np.float64]:
    """The latent in an npy file; its header is checked before anything is allocated for it."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = (
            np.lib.format.read_array_header_1_0(file)
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0(file)
        )
    except (ValueError, EOFError) as error:
        raise Problem(422, "invalid-latent", "The body is not an npy file.") from error
    if dtype != np.float32 or shape != (dimensions,):
        raise Problem(
            422,
            "invalid-latent",
            f"The latent is {dtype} of shape {shape}; it must be float32 of shape ({dimensions},).",
        )
    values = file.read()
    if len(values) != 4 * dimensions:
        raise Problem(422, "invalid-latent", "The npy file is truncated or too long.")
    latent = np.frombuffer(values, dtype)
    if not np.isfinite(latent).all():
        raise Problem(422, "invalid-latent", "The latent holds numbers that are not finite.")
    return latent.astype(np.float64)


def _check_strengths(parts: Parts, strengths: dict[str, float]) -> None:
    directions = {direction.name: direction for direction in parts.engine.bundle.directions}
    for name, strength in strengths.items():
        if name not in directions:
            raise Problem(
                422,
                "unknown-attribute",
                f"There is no attribute {name!r}; there are {', '.join(directions)}.",
            )
        low, high = directions[name].min, directions[name].max
        if not low <= strength <= high:
            raise Problem(
                422,
                "strength-out-of-range",
                f"The strength of {name} is {strength}; it must lie from {low} to {high}.",
            )


@router.post(
    "/edit",
    response_class=Response,
    responses={**PICTURE, **problem_responses(404, 406, 409, 422, 503)},
)
async def edit(parts: PartsOf, request: EditRequest, format: FormatOf) -> Response:
    """Move a latent along attribute directions and decode it; `photo` is the whole upload at its
    own resolution with the edited face in place (of a generated face, the crop)."""
    _check_strengths(parts, request.attributes)
    whole = request.output == "photo"
    record, _ = await parts.record(request.latent_id, photo=whole)
    if record.photo is not None and not any(request.attributes.values()):
        photo = await asyncio.to_thread(photos.read, record.photo, parts.settings.max_pixels)
        return await picture(photo, format)
    decoded = await parts.engine.decode(record.latent, request.attributes)
    if record.photo is None:
        return await picture(decoded, format)
    edited = await asyncio.to_thread(_in_place, parts, record, decoded)
    return await picture(edited, format)


def _in_place(parts: Parts, record: Record, decoded: Pixels) -> Pixels:
    assert record.photo is not None
    assert record.box is not None
    photo = photos.read(record.photo, parts.settings.max_pixels)
    before = parts.engine.reduced(faces.align(photo, record.box, len(decoded)))
    return faces.paste_back(photo, record.box, decoded.astype(np.float32) - before)
