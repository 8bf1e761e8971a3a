"""The one owner of the device: the model is touched by this thread alone."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from app.photos import Pixels
from model.bundle import Bundle

T = TypeVar("T")


class Engine:
    """Encodes, decodes and edits with one bundle, one call at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._flow = bundle.flow
        self._device = next(bundle.flow.parameters()).device
        dimensions = bundle.flow.config.dimensions
        vectors = [direction.vector for direction in bundle.directions]
        self._vectors = torch.stack(vectors) if vectors else torch.empty(0, dimensions)
        self._vectors = self._vectors.to(self._device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    @property
    def resolution(self) -> int:
        return self._flow.config.resolution

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def encode(self, crop: Pixels) -> tuple[NDArray[np.float64], float]:
        """The flat latent of a crop (R, R, 3), and the crop's bits/dim."""
        return await self._run(lambda: self._encode(crop))

    async def decode(self, latent: NDArray[np.float64]) -> NDArray[np.float32]:
        """The picture of a flat latent, (R, R, 3), on the 0 to 1 scale before clipping."""
        return await self._run(lambda: self._decode(latent))

    async def edit(
        self, latent: NDArray[np.float64], strengths: dict[str, float]
    ) -> NDArray[np.float32]:
        """decode(latent + sum of strength x direction)."""
        return await self._run(lambda: self._decode(self._moved(latent, strengths)))

    async def sample(self, count: int, temperature: float, seed: int) -> NDArray[np.float64]:
        """`count` flat latents drawn at a temperature, (count, dimensions)."""

        def draw() -> NDArray[np.float64]:
            latent = self._flow.sample_latent(count, temperature, seed)
            return self._flow.flatten(latent).double().cpu().numpy()

        return await self._run(draw)

    @torch.inference_mode()
    def _encode(self, crop: Pixels) -> tuple[NDArray[np.float64], float]:
        # .copy(): the pixels may be a read-only view of a picture
        images = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].to(self._device)
        latent = self._flow.flatten(self._flow.encode(images))[0].cpu().numpy()
        log_prob = self._flow.log_prob(images, torch.Generator().manual_seed(0))
        return latent, self._flow.bits_per_dim(log_prob).item()

    @torch.inference_mode()
    def _decode(self, latent: NDArray[np.float64]) -> NDArray[np.float32]:
        flat = torch.from_numpy(latent.copy())[None].to(self._device)
        decoded = self._flow.decode(self._flow.unflatten(flat))[0]
        picture: NDArray[np.float32] = decoded.permute(1, 2, 0).cpu().numpy()
        return picture

    @torch.inference_mode()
    def _moved(
        self, latent: NDArray[np.float64], strengths: dict[str, float]
    ) -> NDArray[np.float64]:
        weights = torch.tensor([strengths.get(d.name, 0.0) for d in self.bundle.directions])
        if not weights.any():
            return latent
        step: NDArray[np.float32] = (weights.to(self._device) @ self._vectors).cpu().numpy()
        return latent + step

    def readings(self, latent: NDArray[np.float64]) -> dict[str, float]:
        """Where a flat latent lies on each attribute's slider, in units of strength."""
        flat = torch.from_numpy(latent.copy())
        return {d.name: round(d.reading(flat), 3) for d in self.bundle.directions}

    def close(self) -> None:
        self._thread.shutdown()
