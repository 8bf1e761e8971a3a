"""Photographs to latents, and what is kept of them."""

import asyncio
import io
import re
from typing import Annotated

import numpy as np
from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile

from app import faces, photos
from app.api.parts import PartsOf
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


def _place(photo: Pixels, align: str) -> Face:
    """The crop to take of a photograph: `auto`, `none`, or a box `x,y,size,angle`."""
    if align == "none":
        return Face.at(faces.centred(photo), found=False, confidence=0.0)
    if align == "auto":
        found = faces.find(photo)
        if not found:
            raise Problem(
                422,
                "no-face",
                "No face was found in the photograph. Send one that shows a face from the front, "
                "or say where it is: align = x,y,size,angle, or none for the middle square.",
            )
        return Face.at(found[0].box, found=True, confidence=found[0].confidence)
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
    return Face.at(box, found=False, confidence=0.0)


@router.post("/encode", status_code=201, responses=problem_responses(413, 415, 422, 503))
async def encode(
    parts: PartsOf,
    image: Annotated[UploadFile, File(description="The photograph.")],
    align: Annotated[
        str, Form(description="auto, none, or a box x,y,size,angle in pixels and degrees.")
    ] = "auto",
) -> Encoded:
    """Find the face in a photograph and encode its crop."""
    data = await image.read()
    resolution = parts.engine.resolution

    def prepare() -> tuple[Face, Box, Pixels]:
        photo = photos.read(data, parts.settings.max_pixels)
        face = _place(photo, align)
        box = Box(face.box.x, face.box.y, face.box.size, face.angle)
        return face, box, faces.align(photo, box, resolution)

    face, box, crop = await asyncio.to_thread(prepare)
    latent, bits_per_dim = await parts.engine.encode(crop)
    latent_id = await parts.store.put(Record(latent, parts.engine.bundle.name, box, data))
    return Encoded(
        latent_id=latent_id,
        face=face,
        readings=parts.engine.readings(latent),
        bits_per_dim=round(bits_per_dim, 4),
        expires_in=parts.settings.time_to_live,
    )


@router.post("/sample", responses=problem_responses(422, 503))
async def sample(parts: PartsOf, request: SampleRequest) -> list[Sampled]:
    """Draw faces that never were; their pictures are at /decode."""
    latents = await parts.engine.sample(request.count, request.temperature, request.seed)
    name = parts.engine.bundle.name
    ids = [await parts.store.put(Record(latent, name)) for latent in latents]
    return [
        Sampled(
            latent_id=latent_id,
            readings=parts.engine.readings(latent),
            expires_in=parts.settings.time_to_live,
        )
        for latent_id, latent in zip(ids, latents, strict=True)
    ]


@router.get(
    "/latents/{latent_id}",
    response_model=LatentDescription,
    responses={
        200: {"content": {NPY: {"schema": {"type": "string", "contentMediaType": NPY}}}},
        **problem_responses(404, 409, 422, 503),
    },
)
async def latent(
    parts: PartsOf, request: Request, latent_id: Annotated[LatentId, Path()]
) -> LatentDescription | Response:
    """The latent as an npy file (float32, flat, levels in order) where Accept asks for
    application/x-npy, else its description."""
    record, seconds = await parts.record(latent_id)
    if NPY in request.headers.get("accept", ""):
        out = io.BytesIO()
        np.save(out, record.latent.astype(np.float32))
        return Response(out.getvalue(), media_type=NPY, headers={"Vary": "Accept"})
    return LatentDescription(
        latent_id=latent_id,
        model=record.model,
        shapes=parts.engine.bundle.flow.config.part_shapes,
        has_photo=record.has_photo,
        expires_in=seconds,
    )


@router.delete("/latents/{latent_id}", status_code=204, responses=problem_responses(404, 422, 503))
async def delete(parts: PartsOf, latent_id: Annotated[LatentId, Path()]) -> None:
    """Forget a latent and its photograph."""
    await parts.store.delete(latent_id)
