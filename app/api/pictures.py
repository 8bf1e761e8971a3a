"""Latents to pictures: decode, edit, sweep and mix."""

import asyncio
import hashlib
import io
from dataclasses import replace
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import ValidationError

from app import faces, photos
from app.api.answers import (
    PICTURE,
    FormatOf,
    animation,
    animation_of,
    format_of,
    picture,
    tag_of,
    unchanged,
)
from app.api.latents import NPY
from app.api.parts import Move, Parts, PartsOf
from app.crops import cut
from app.engine import Latent
from app.errors import Problem, problem_responses
from app.latents import Record
from app.photos import Animation, Format, Pixels
from app.schemas import DecodeRequest, EditRequest, Mixing, MixRequest, SweepRequest
from app.together import together

router = APIRouter(tags=["pictures"])

STRIP: dict[int | str, dict[str, Any]] = {
    200: {
        **PICTURE[200],
        "content": {
            **PICTURE[200]["content"],
            "image/gif": {"schema": {"type": "string", "contentMediaType": "image/gif"}},
        },
    }
}
PICTURE_OR_PROBLEM = {**PICTURE, **problem_responses(404, 406, 409, 412, 422, 503)}
STRIP_OR_PROBLEM = {**PICTURE_OR_PROBLEM, **STRIP}

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
    responses={**PICTURE_OR_PROBLEM, **problem_responses(415)},
    openapi_extra=DECODE_BODY,
)
async def decode(parts: PartsOf, request: Request, format: FormatOf) -> Response:
    """The picture of a latent: a stored one by its id, or the npy file in the body (float32,
    flat, levels in order)."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind == NPY:
        latent = _read_npy(body, parts.engine.bundle.flow.config.dimensions)
        identity = hashlib.sha256(body).hexdigest()
    elif kind == "application/json":
        try:
            wanted = DecodeRequest.model_validate_json(body)
        except ValidationError as error:
            raise RequestValidationError(
                [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
            ) from error
        record = await parts.record(wanted.latent_id)
        latent, identity = record.latent, wanted.latent_id
    else:
        raise Problem(
            415, "unsupported-body", f"The body must be application/json or {NPY}, not {kind!r}."
        )
    tag = tag_of(parts.engine.bundle.revision, "decode", identity, format)
    return unchanged(request, tag) or await picture(await parts.decode(latent), format, tag)


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


@router.post("/edit", response_class=Response, responses=PICTURE_OR_PROBLEM)
async def edit(parts: PartsOf, request: Request, wanted: EditRequest, format: FormatOf) -> Response:
    """Move a latent along attribute directions and decode it; `photo` is the whole upload at its
    own resolution with the edited face in place (of a generated face, the crop)."""
    move = await parts.move(wanted.attributes)
    record = await parts.record(wanted.latent_id, photo=wanted.output == "photo")
    move = await _mixed(parts, record, wanted.mix, move)
    tag = tag_of(
        parts.engine.bundle.revision, "edit", wanted.latent_id, move.identity, wanted.output, format
    )
    if same := unchanged(request, tag):
        return same
    return await picture(await _edited(parts, record, move), format, tag)


async def edited(parts: Parts, wanted: EditRequest) -> Pixels:
    """The picture that /edit and /live answer with."""
    move = await parts.move(wanted.attributes)
    record = await parts.record(wanted.latent_id, photo=wanted.output == "photo")
    return await _edited(parts, record, await _mixed(parts, record, wanted.mix, move))


async def _mixed(parts: Parts, record: Record, mix: Mixing | None, move: Move) -> Move:
    """The move, from a share of the way to another face."""
    if mix is None:
        return move
    other = await parts.record(mix.latent_id)
    return replace(move, start=_between(record, other, mix.t)) if mix.t else move


def _between(a: Record, b: Record, share: float) -> Latent:
    """The latent at a share of the way from one face to another, exact at both ends."""
    # Along a straight line: keeping the latent's length instead, along a sphere, would be right for
    # a Gaussian, but measured on photographs it adds contrast and bursts, and no detail that the
    # line lacks.
    return (1 - share) * a.latent + share * b.latent


async def _edited(parts: Parts, record: Record, move: Move) -> Pixels:
    if record.photo is not None and not move:
        return await asyncio.to_thread(photos.read, record.photo, parts.settings.max_pixels)
    decoded = await parts.decode(record.latent, move)
    if record.photo is None:
        return decoded
    return await asyncio.to_thread(_in_place, parts, record, decoded)


def _in_place(parts: Parts, record: Record, decoded: Pixels) -> Pixels:
    assert record.photo is not None
    assert record.box is not None
    photo = photos.read(record.photo, parts.settings.max_pixels)
    bundle = parts.engine.bundle
    before = photos.quantized(cut(photo, record.box, bundle), bundle.flow.config.bits)
    return faces.paste_back(photo, record.box, decoded.astype(np.float32) - before)


ANIMATION_SIDE = 640  # pixels


@router.post("/sweep", response_class=Response, responses=STRIP_OR_PROBLEM)
async def sweep(parts: PartsOf, request: Request, wanted: SweepRequest) -> Response:
    """One attribute from `start` to `stop` in even steps: the crops side by side in one image, or
    an animation. What `attributes` says of others, and `mix`, holds throughout."""
    format = animation_of(request) if wanted.animated else await format_of(request)
    direction = await parts.direction(wanted.attribute)
    start = direction.min if wanted.start is None else wanted.start
    stop = direction.max if wanted.stop is None else wanted.stop
    strengths = np.linspace(start, stop, wanted.steps).tolist()
    record = await parts.record(wanted.latent_id, photo=wanted.animated == "photo")
    others = {name: at for name, at in wanted.attributes.items() if name != wanted.attribute}
    held = await _mixed(parts, record, wanted.mix, await parts.move(others))
    moves = [parts.step(direction, strength, held) for strength in strengths]
    identity = [wanted.animated, *(move.identity for move in moves)]
    tag = tag_of(parts.engine.bundle.revision, "sweep", wanted.latent_id, identity, format)
    if same := unchanged(request, tag):
        return same
    if wanted.animated:
        frames = []
        for move in moves:  # one after another: a photograph may be large, a frame is not
            whole = await _edited(parts, record, move)
            frames.append(await asyncio.to_thread(photos.reduced, whole, ANIMATION_SIDE))
        return await animation(frames, cast(Animation, format), tag)
    crops = await together(parts.decode(record.latent, move) for move in moves)
    return await picture(np.concatenate(crops, axis=1), cast(Format, format), tag)


@router.post("/mix", response_class=Response, responses=PICTURE_OR_PROBLEM)
async def mix(parts: PartsOf, request: Request, wanted: MixRequest, format: FormatOf) -> Response:
    """Between two faces: the crop at share `t` of the way from the first to the second, or in
    `steps` even steps all the way, side by side in one image."""
    a = await parts.record(wanted.latent_a)
    b = await parts.record(wanted.latent_b)
    ids = wanted.latent_a, wanted.latent_b
    tag = tag_of(parts.engine.bundle.revision, "mix", *ids, wanted.shares, format)
    if same := unchanged(request, tag):
        return same
    crops = await together(parts.decode(_between(a, b, share)) for share in wanted.shares)
    return await picture(np.concatenate(crops, axis=1), format, tag)
