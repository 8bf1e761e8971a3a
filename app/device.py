"""A bundle on its device, and batches of work for it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app import photos
from app.photos import Pixels
from app.settings import Settings
from model.attributes import edited
from model.bundle import Bundle
from model.runtime import Runtime, fastest

# The most of one batch. On one core of a CPU a decode in a batch of 8 takes 0.7 of the time of one
# alone, and in 16 hardly less, though all of a batch wait for its last. A GPU has the room.
LARGEST_BATCH = {"cpu": 8}
LARGEST_BATCH_ELSEWHERE = 64

THREADS = torch.get_num_threads()  # for the model, whatever `load` leaves this process

FATAL_FAILURES = 3  # in a row: a device in a state like this does not come back by itself


def device(name: str) -> torch.device:
    """A device by its name; auto is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load(settings: Settings) -> Bundle:
    """The bundle to serve, on its device."""
    # Threads that this one leaves behind, with those of the thread that runs the model, would be
    # more than there are processors: OpenMP's waits then sleep, and a decode takes twice as long.
    torch.set_num_threads(1)
    return Bundle.load(settings.bundle, device(settings.device))


def largest_batch(device: torch.device) -> int:
    return LARGEST_BATCH.get(device.type, LARGEST_BATCH_ELSEWHERE)


def out_of_memory(error: Exception) -> bool:
    # on a CPU, torch raises a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def by_halves(work: Callable[[list[Any]], Sequence[Any]], batch: list[Any]) -> list[Any]:
    """A batch's results; where memory is short for all of it, those of its halves. In the place of
    one that is too large even alone is the error."""
    try:
        return list(work(batch))
    except Exception as error:
        if not out_of_memory(error):
            raise
        if len(batch) == 1:
            return [error]
    half = len(batch) // 2
    return by_halves(work, batch[:half]) + by_halves(work, batch[half:])


# a latent, strengths of the bundle's directions by name, and an offset beside them
Decoding = tuple[NDArray[np.float64], dict[str, float], NDArray[np.float64] | None]


class Model:
    """The bundle on its device, a list in and a list out: all that touches the flow."""

    def __init__(self, bundle: Bundle) -> None:
        self._flow = flow = bundle.flow
        self._runtime = fastest(flow)
        self._directions = bundle.directions
        self._common = flow.common.density(torch.float64) if flow.common else None
        self.device = flow.device
        dimensions, resolution = flow.config.dimensions, flow.config.resolution
        vectors = [direction.vector.double() for direction in bundle.directions]
        stacked = torch.stack(vectors) if vectors else torch.empty(0, dimensions).double()
        self._vectors = stacked.to(self.device)
        # the same for every crop, so that bits/dim do not depend on what else is in the batch
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, 3, resolution, resolution, generator=generator)
        self._noise = noise.double().to(self.device)
        self._levels = photos.levels(flow.config.bits)

    def settle(self) -> None:
        """What is to be done once, in the thread that then does all the work."""
        if isinstance(self._runtime, Runtime):
            self._runtime.set_threads(THREADS)

    @torch.inference_mode()
    def encode(self, crops: list[Pixels]) -> list[tuple[NDArray[np.float64], float]]:
        """The latents, and bits/dim under noise."""
        flow = self._flow
        bins = np.stack(crops) >> (8 - flow.config.bits)
        images = self._on_device(bins).permute(0, 3, 1, 2)
        latents = flow.flatten(self._runtime.encode(images)).cpu().numpy()
        dequantized = flow.dequantize(images.double(), self._noise.expand(len(images), -1, -1, -1))
        parts, log_det = self._runtime(dequantized)
        density = flow.log_density_of(parts, log_det, self._common)
        # copies: views would keep the whole batch alive
        return [
            (latent.copy(), bits)
            for latent, bits in zip(latents, flow.bits_per_dim(density).tolist(), strict=True)
        ]

    @torch.inference_mode()
    def decode(self, inputs: list[Decoding]) -> list[Pixels]:
        """The crops of latents moved by strengths of the directions, and by offsets."""
        some_latents, some_strengths, offsets = zip(*inputs, strict=True)
        some_weights = [self._weights(strengths) for strengths in some_strengths]
        latents, weights = (
            self._on_device(np.stack(column)) for column in (some_latents, some_weights)
        )
        steps = weights @ self._vectors
        for step, offset in zip(steps, offsets, strict=True):
            if offset is not None:
                step += torch.tensor(offset, device=self.device)
        pictures, _ = edited(
            lambda z: self._runtime.decode(self._flow.unflatten(z)), latents, steps
        )
        # a latent far from any face may decode to infinities
        bins = self._flow.quantize(pictures.nan_to_num()).permute(0, 2, 3, 1).cpu().numpy()
        return list(self._levels[bins])

    @torch.inference_mode()
    def sample(self, draws: list[tuple[int, float, int]]) -> list[NDArray[np.float64]]:
        latents = (self._flow.sample_latent(*draw) for draw in draws)
        return [self._flow.flatten(latent).double().cpu().numpy() for latent in latents]

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        """By way of pinned memory to a GPU, so that it copies while this goes on."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _weights(self, strengths: dict[str, float]) -> NDArray[np.float64]:
        return np.array([strengths.get(d.name, 0.0) for d in self._directions], np.float64)
