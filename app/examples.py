"""Photographs with an attribute and without to its direction."""

import asyncio
import itertools
from collections.abc import Iterable

import numpy as np
import torch
from fastapi import UploadFile
from numpy.typing import NDArray

from app import faces, photos
from app.crops import cut
from app.engine import Engine
from app.errors import Problem
from app.photos import Pixels
from app.together import together
from model.attributes import STRENGTHS
from model.bundle import Bundle, Direction
from model.examples import from_few

SHORTEST = 0.25  # least reach of a slider; directions of few faces are long
MEASURED = 8  # faces that a slider's ends are measured on, at most
BURST_SHARE = 0.05  # of a crop's values: where more are newly black or white, the picture breaks
LONGEST_NAME = 80  # of a file, in an answer


async def crops_of(
    uploads: Iterable[tuple[str, UploadFile]], bundle: Bundle, max_pixels: int
) -> list[Pixels]:
    """The most prominent face of each photograph; one is open at a time.

    Raises Problem 422 that names each photograph without a face, or that cannot be read.
    """
    crops, faults = [], []
    for where, upload in uploads:
        try:
            data = await upload.read()
            crops.append(await asyncio.to_thread(_crop, data, bundle, max_pixels))
        except Problem as problem:
            named = f"{where} ({(upload.filename or 'unnamed')[:LONGEST_NAME]})"
            faults.append({"where": named, "what": problem.detail})
    if faults:
        words = " ".join(f"{fault['where']}: {fault['what']}" for fault in faults)
        raise Problem(422, "unusable-examples", words, errors=faults)
    return crops


def _crop(data: bytes, bundle: Bundle, max_pixels: int) -> Pixels:
    photo = photos.read(data, max_pixels)
    found = faces.find(photo)
    if not found:
        raise Problem(422, "no-face", "No face was found in this photograph.")
    return cut(photo, found[0].box, bundle)


async def direction_of(
    engine: Engine, name: str, positive: list[Pixels], negative: list[Pixels]
) -> Direction:
    """The direction from crops without an attribute to crops with it, with the ends of its slider
    measured on them."""
    crops = positive + negative
    encoded = await together(engine.encode(crop) for crop in crops)
    latents = torch.from_numpy(np.stack([latent for latent, _ in encoded]))
    known = [direction.along for direction in engine.bundle.directions]
    vector, origin = from_few(
        latents[: len(positive)],
        latents[len(positive) :],
        torch.stack(known) if known else latents.new_empty(0, latents.shape[1]),
    )
    readings = latents @ vector / vector.square().sum()
    step = -(-len(crops) // MEASURED)
    faces_measured = list(zip(crops, latents.numpy(), strict=True))[::step]
    return Direction(
        name=name,
        label=name.replace("_", " ").replace("-", " ").capitalize(),
        group="Your own",
        vector=vector.float(),
        positives=len(positive),
        negatives=len(negative),
        origin=origin,
        std=readings.std().item(),
        min=-await _reach(engine, -vector.numpy(), faces_measured),
        max=await _reach(engine, vector.numpy(), faces_measured),
    )


async def _reach(
    engine: Engine,
    vector: NDArray[np.float64],
    measured: list[tuple[Pixels, NDArray[np.float64]]],
) -> float:
    """The greatest of STRENGTHS up to which no face bursts, or SHORTEST: as
    `model.attributes.ranged` measures it, but for what it can see of crops in 8 bits."""
    for reach, strength in itertools.pairwise((SHORTEST, *STRENGTHS)):
        moved = await together(engine.decode(latent + strength * vector) for _, latent in measured)
        gained = [
            _clipped(after) - _clipped(before)
            for after, (before, _) in zip(moved, measured, strict=True)
        ]
        if max(gained) > BURST_SHARE:
            return reach
    return STRENGTHS[-1]


def _clipped(crop: Pixels) -> float:
    """The share of values at either end of the scale."""
    return float(((crop == 0) | (crop == 255)).mean())
