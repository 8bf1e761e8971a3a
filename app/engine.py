"""The one owner of the device: a queue, a batch, the model, a future each."""

import asyncio
import ctypes
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import Problem
from app.photos import Pixels
from model.attributes import edited
from model.bundle import Bundle
from model.runtime import Runtime, fastest

log = logging.getLogger(__name__)

# The most of one batch. On one core of a CPU a decode in a batch of 8 takes 0.7 of the time of one
# alone, and in 16 hardly less, though all of a batch wait for its last. A GPU has the room.
LARGEST_BATCH = {"cpu": 8}
LARGEST_BATCH_ELSEWHERE = 64

FATAL_FAILURES = 3  # in a row: a device in a state like this does not come back by itself

Observe = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Job:
    """One request's share of a batch."""

    work: "Work"
    input: Any
    result: Future[Any]
    since: float


@dataclass(frozen=True)
class Work:
    """One kind of work: a list of inputs to as many results, in one pass."""

    name: str
    run: Callable[[list[Any]], Sequence[Any]]
    waiting: deque[Job]


class Engine:
    """Encodes, decodes and samples with one bundle, in batches of whatever waits.

    A thread of its own takes the kind of work that has waited longest and does all of it that
    fits a batch; a request that finds the device idle is done at once. Work whose client has gone
    (its future is cancelled) is dropped. `observe` is told of every batch: the kind of work, its
    size, and the seconds that it took.

    Every call raises Problem 503 where `capacity` requests wait already, where the answer is not
    there within `deadline` seconds, and where the device has no memory even for this one alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        capacity: int = 256,
        deadline: float = 20.0,
        observe: Observe = lambda *_: None,
    ) -> None:
        self.bundle = bundle
        self._model = _Model(bundle)
        self._capacity = capacity
        self._deadline = deadline
        self._observe = observe
        self._encode = Work("encode", self._model.encode, deque())
        self._decode = Work("decode", self._model.decode, deque())
        self._sample = Work("sample", self._model.sample, deque())
        self._works = (self._encode, self._decode, self._sample)
        self._limit = LARGEST_BATCH.get(self._model.device.type, LARGEST_BATCH_ELSEWHERE)
        self._largest = self._limit  # less, for a while, after the memory was short
        self._failures = 0  # in a row
        self._seconds = 0.0  # that one request takes, of late
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @property
    def resolution(self) -> int:
        return self.bundle.flow.config.resolution

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(len(work.waiting) for work in self._works)

    @property
    def healthy(self) -> bool:
        """Whether it takes work, and the last few batches did not all fail."""
        return self._thread.is_alive() and not self._closing and self._failures < FATAL_FAILURES

    async def encode(self, crop: Pixels) -> tuple[NDArray[np.float64], float]:
        """The flat latent of a crop (R, R, 3), and the crop's bits/dim."""
        latent, bits_per_dim = await self._result(self._encode, crop)
        return latent, bits_per_dim

    async def decode(
        self,
        latent: NDArray[np.float64],
        strengths: dict[str, float] | None = None,
        offset: NDArray[np.float64] | None = None,
    ) -> Pixels:
        """The crop of latent + sum of strength x direction + offset, (R, R, 3): what
        `Flow.quantize` gives, on the scale of 8 bits. A step that would burst the picture is
        shortened (`model.attributes.edited`); one of 0 leaves the latent as it is, bit for bit."""
        weights = self._model.weights(strengths or {})
        crop: Pixels = await self._result(self._decode, (latent, weights, offset))
        return crop

    async def sample(self, count: int, temperature: float, seed: int) -> NDArray[np.float64]:
        """`count` flat latents drawn at a temperature, (count, dimensions)."""
        latents: NDArray[np.float64]
        latents = await self._result(self._sample, (count, temperature, seed))
        return latents

    def readings(self, latent: NDArray[np.float64]) -> dict[str, float]:
        """Where a flat latent lies on each attribute's slider, in units of strength."""
        return self._model.readings(latent)

    def reduced(self, crop: Pixels) -> Pixels:
        """A crop as decode(encode(crop)) gives it: itself, but for a model of fewer than 8 bits."""
        return self._model.reduced(crop)

    def close(self) -> None:
        """Finish what was accepted, and take no more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    async def _result(self, work: Work, input: Any) -> Any:
        job = Job(work, input, Future(), time.monotonic())
        self._put(job)
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(job.result)
        except TimeoutError:
            raise self._busy("the request was not reached in time") from None

    def _put(self, job: Job) -> None:
        with self._changed:
            if self._closing:
                raise self._busy("the server is stopping")
            if self.waiting >= self._capacity:
                self._forget_cancelled()
            if self.waiting >= self._capacity:
                raise self._busy(f"{self._capacity} requests wait already")
            job.work.waiting.append(job)
            self._changed.notify()

    def _busy(self, why: str) -> Problem:
        wait = math.ceil(self.waiting * self._seconds)
        return Problem(
            503,
            "busy",
            f"The model is busy: {why}. Try again in a moment.",
            {"Retry-After": str(max(1, wait))},
        )

    def _forget_cancelled(self) -> None:
        for work in self._works:
            kept = [job for job in work.waiting if not job.result.cancelled()]
            work.waiting.clear()
            work.waiting.extend(kept)

    def _serve(self) -> None:
        self._model.settle()
        while self._serve_one_batch():
            pass

    def _serve_one_batch(self) -> bool:
        # in a frame of its own: no photograph stays in a variable while there is nothing to do
        batch = self._next_batch()
        if not batch:
            return False
        work = batch[0].work
        start = time.perf_counter()
        try:
            results = work.run([job.input for job in batch])
        except Exception as error:
            self._failed(batch, error)
            return True
        seconds = time.perf_counter() - start
        self._failures = 0
        self._largest = min(self._limit, self._largest + 1)
        self._seconds = 0.8 * self._seconds + 0.2 * seconds / len(batch)
        self._observe(work.name, len(batch), seconds)
        for job, result in zip(batch, results, strict=True):
            job.result.set_result(result)
        return True

    def _next_batch(self) -> list[Job]:
        """Waits for work; empty when there is to be no more."""
        with self._changed:
            while True:
                batch: list[Job] = []
                ready = [work for work in self._works if work.waiting]
                if not ready and self._closing:
                    return batch
                if not ready:
                    self._changed.wait()
                    continue
                waiting = min(ready, key=lambda work: work.waiting[0].since).waiting
                while waiting and len(batch) < self._largest:
                    job = waiting.popleft()
                    # False where it was cancelled; where it runs already, it is of a halved batch
                    if job.result.running() or job.result.set_running_or_notify_cancel():
                        batch.append(job)
                if batch:
                    return batch

    def _failed(self, batch: list[Job], error: Exception) -> None:
        """Out of memory, the batch goes back to be done by halves; else its requests fail."""
        if not _out_of_memory(error):
            self._failures += 1
            log.error("a batch of %d to %s failed", len(batch), batch[0].work.name, exc_info=error)
            for job in batch:
                job.result.set_exception(error)
        elif len(batch) > 1:
            self._largest = len(batch) // 2
            log.warning("out of memory: batches of %d and no more, for a while", self._largest)
            with self._changed:
                batch[0].work.waiting.extendleft(reversed(batch))
        else:
            batch[0].result.set_exception(self._busy("its memory is taken"))


def keep_freed_memory() -> None:
    """Has glibc keep what a batch frees for the next one, for the whole process. By itself it gives
    large blocks back to the system, and faulting their pages in again is up to 0.4 of a decode."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_ARENA_MAX, 1)  # other arenas are made of small pieces, which are given back


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h


def _out_of_memory(error: Exception) -> bool:
    # on a CPU, torch raises a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class _Model:
    """The bundle on its device, a list in and a list out: all that touches the flow."""

    def __init__(self, bundle: Bundle) -> None:
        self._flow = flow = bundle.flow
        self._runtime = fastest(flow)
        self._directions = bundle.directions
        self.device = flow.device
        dimensions, resolution = flow.config.dimensions, flow.config.resolution
        vectors = [direction.vector.double() for direction in bundle.directions]
        stacked = torch.stack(vectors) if vectors else torch.empty(0, dimensions).double()
        self._vectors = stacked.to(self.device)
        self._scaled = (stacked / stacked.square().sum(1, keepdim=True)).numpy()
        # the same for every crop, so that bits/dim do not depend on what else is in the batch
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, 3, resolution, resolution, generator=generator)
        self._noise = noise.double().to(self.device)
        self._levels = np.rint(np.arange(flow.bins) * 255 / (flow.bins - 1)).astype(np.uint8)

    def settle(self) -> None:
        """What is to be done once, in the thread that then does all the work."""
        if isinstance(self._runtime, Runtime):
            self._runtime.set_threads()

    @torch.inference_mode()
    def encode(self, crops: list[Pixels]) -> list[tuple[NDArray[np.float64], float]]:
        """The latents, and bits/dim under noise."""
        flow = self._flow
        bins = np.stack(crops) >> (8 - flow.config.bits)
        images = torch.from_numpy(bins).permute(0, 3, 1, 2).to(self.device)
        latents = flow.flatten(self._runtime.encode(images)).cpu().numpy()
        dequantized = flow.dequantize(images.double(), self._noise.expand(len(images), -1, -1, -1))
        density = self._runtime.log_density(dequantized)
        # copies: views would keep the whole batch alive
        return [
            (latent.copy(), bits)
            for latent, bits in zip(latents, flow.bits_per_dim(density).tolist(), strict=True)
        ]

    @torch.inference_mode()
    def decode(
        self,
        inputs: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]],
    ) -> list[Pixels]:
        """The crops of latents moved by weights of the directions, and by offsets."""
        some_latents, some_weights, offsets = zip(*inputs, strict=True)
        latents, weights = (
            torch.from_numpy(np.stack(column)).to(self.device)
            for column in (some_latents, some_weights)
        )
        steps = weights @ self._vectors
        for step, offset in zip(steps, offsets, strict=True):
            if offset is not None:
                step += torch.from_numpy(offset).to(self.device)
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

    def weights(self, strengths: dict[str, float]) -> NDArray[np.float64]:
        return np.array([strengths.get(d.name, 0.0) for d in self._directions], np.float64)

    def readings(self, latent: NDArray[np.float64]) -> dict[str, float]:
        """`Direction.reading` of each direction, in one product."""
        values = self._scaled @ latent
        return {
            d.name: round(float(value) - d.origin, 3)
            for d, value in zip(self._directions, values, strict=True)
        }

    def reduced(self, crop: Pixels) -> Pixels:
        reduced: Pixels = self._levels[crop >> (8 - self._flow.config.bits)]
        return reduced
