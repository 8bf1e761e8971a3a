"""Photographs to latents, and what is kept of them."""

import asyncio
import io
import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile

from app import faces, photos
from app.api.answers import FORMATS, accepted, format_of, picture, tag_of, unchanged
from app.api.parts import PartsOf
from app.crops import cut
from app.errors import Problem, problem_responses
from app.faces import Box
from app.latents import Record
from app.photos import Pixels
from app.schemas import (
    Encoded,
    Face,
    LatentDescription,
    LatentId,
    Sampled,
    SampleRequest,
)

router = APIRouter(tags=["latents"])

BOX = re.compile(r"^" + ",".join([r"\s*(-?\d+(?:\.\d+)?)\s*"] * 4) + "$")
SMALLEST_FACE = 8  # pixels
NPY = "application/x-npy"


def _place(photo: Pixels, align: str) -> list[Face]:
    """The crop to take of a photograph: `auto`, `none`, or a box `x,y,size,angle`; and after it
    the other faces that were found."""
    if align == "none":
        return [Face.at(faces.centred(photo), found=False, confidence=0.0)]
    if align == "auto":
        found = faces.find(photo)
        if not found:
            raise Problem(
                422,
                "no-face",
                "No face was found in the photograph. Send one that shows a face from the front, "
                "or say where it is: align = x,y,size,angle, or none for the middle square.",
            )
        return [Face.at(face.box, found=True, confidence=face.confidence) for face in found]
    match = BOX.match(align)
    if not match:
        raise Problem(
            422,
            "invalid-align",
            "align must be auto, none, or a box of four numbers x,y,size,angle.",
        )
    box = Box(*map(float, match.groups()))
    height, width = photo.shape[:2]
    x, y = box.middle
    if not (SMALLEST_FACE <= box.size <= 4 * max(height, width)) or not (
        0 <= x <= width and 0 <= y <= height
    ):
        raise Problem(
            422,
            "invalid-align",
            f"The box must have its middle in the photograph of {width}x{height} pixels and a "
            f"size of {SMALLEST_FACE} to {4 * max(height, width)}.",
        )
    return [Face.at(box, found=False, confidence=0.0)]


@router.post(
    "/encode",
    status_code=201,
    responses=problem_responses(400, 413, 415, 422, 503),
    form_limits={"max_files": 1, "max_fields": 4},
)
async def encode(
    parts: PartsOf,
    image: Annotated[UploadFile, File(description="The photograph.")],
    align: Annotated[
        str,
        Form(
            description="auto, none, or a box x,y,size,angle in pixels and degrees.",
            examples=["auto", "none", "161.7,60.3,124,3.3"],
        ),
    ] = "auto",
) -> Encoded:
    """Find the face in a photograph and encode its crop."""
    data = await image.read()

    def prepare() -> tuple[list[Face], Box, Pixels]:
        photo = photos.read(data, parts.settings.max_pixels)
        found = _place(photo, align)
        box = Box(found[0].box.x, found[0].box.y, found[0].box.size, found[0].angle)
        return found, box, cut(photo, box, parts.engine.bundle)

    found, box, crop = await asyncio.to_thread(prepare)
    latent, bits_per_dim = await parts.engine.encode(crop)
    latent_id = await parts.put(Record(latent, parts.engine.bundle.identity, box, data))
    return Encoded(
        latent_id=latent_id,
        face=found[0],
        others=found[1:],
        readings=(await parts.readings([latent]))[0],
        bits_per_dim=round(bits_per_dim, 4),
        expires_in=parts.settings.time_to_live,
    )


@router.post("/sample", responses=problem_responses(422, 503))
async def sample(parts: PartsOf, request: SampleRequest) -> list[Sampled]:
    """Draw faces that never were; their pictures are at /decode."""
    latents = await parts.engine.sample(request.count, request.temperature, request.seed)
    name = parts.engine.bundle.identity
    ids = [await parts.put(Record(latent, name)) for latent in latents]
    return [
        Sampled(latent_id=latent_id, readings=readings, expires_in=parts.settings.time_to_live)
        for latent_id, readings in zip(ids, await parts.readings(latents), strict=True)
    ]


NOT_JSON: dict[str, Any] = {
    kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in (NPY, *FORMATS)
}


@router.get(
    "/latents/{latent_id}",
    response_model=LatentDescription,
    responses={
        200: {"content": NOT_JSON},
        304: {"description": "If-None-Match names what would be sent."},
        **problem_responses(404, 406, 409, 422, 503),
    },
)
async def latent(
    parts: PartsOf, request: Request, response: Response, latent_id: Annotated[LatentId, Path()]
) -> LatentDescription | Response:
    """The latent as Accept asks for it: as an npy file (application/x-npy: float32, flat, levels
    in order), as its picture (image/…), else its description."""
    record = await parts.record(latent_id)
    kinds = accepted(request)
    if NPY in kinds:
        tag = tag_of(record.model, "npy", latent_id)
        if same := unchanged(request, tag):
            return same
        out = io.BytesIO()
        np.save(out, record.latent.astype(np.float32))
        headers = {"Vary": "Accept", "ETag": tag}
        return Response(out.getvalue(), media_type=NPY, headers=headers)
    if any(kind.startswith("image/") for kind in kinds):
        format = await format_of(request)
        tag = tag_of(parts.engine.bundle.revision, "decode", latent_id, format)
        if same := unchanged(request, tag):
            return same
        return await picture(await parts.decode(record.latent), format, tag)
    response.headers["Vary"] = "Accept"
    return LatentDescription(
        latent_id=latent_id,
        model=parts.engine.bundle.name,
        shapes=parts.engine.bundle.flow.config.part_shapes,
        has_photo=record.has_photo,
        expires_in=await parts.store.expires_in(latent_id),
    )


@router.delete("/latents/{latent_id}", status_code=204, responses=problem_responses(404, 422, 503))
async def delete(parts: PartsOf, latent_id: Annotated[LatentId, Path()]) -> None:
    """Forget a latent and its photograph."""
    await parts.forget(latent_id)
