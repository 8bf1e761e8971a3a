"""The engine: in this process it is the one owner of the device, with a queue, a batch, the model
and a future each."""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.device import FATAL_FAILURES, Model, largest_batch, out_of_memory
from app.errors import Problem
from app.photos import Pixels
from model.bundle import Bundle

log = logging.getLogger(__name__)

Observe = Callable[[str, int, float], None]

Latent = NDArray[np.float64]


class Engine(Protocol):
    """What encodes, decodes and samples with one bundle, wherever the device is.

    Every call raises Problem 503 where more wait than may, where the answer is not there before
    its deadline, and where the device has no memory even for this one alone.
    """

    @property
    def bundle(self) -> Bundle: ...

    @property
    def waiting(self) -> int:
        """Requests that were accepted and wait for the device, or for their answer from it."""

    @property
    def healthy(self) -> bool:
        """Whether it can be used; where not, only a restart of this process helps."""

    async def encode(self, crop: Pixels) -> tuple[Latent, float]:
        """The flat latent of a crop (R, R, 3), and the crop's bits/dim."""

    async def decode(
        self,
        latent: Latent,
        strengths: dict[str, float] | None = None,
        offset: Latent | None = None,
    ) -> Pixels:
        """The crop of latent + sum of strength x direction + offset, (R, R, 3): what
        `Flow.quantize` gives, on the scale of 8 bits. A step that would burst the picture is
        shortened (`model.attributes.edited`); one of 0 leaves the latent as it is, bit for bit."""

    async def sample(self, count: int, temperature: float, seed: int) -> Latent:
        """`count` flat latents drawn at a temperature, (count, dimensions)."""

    def close(self) -> None:
        """Finish what was accepted, and take no more."""


def busy(why: str, wait: float = 0) -> Problem:
    """`wait` is the seconds after which to try again, as far as they are known."""
    return Problem(
        503,
        "busy",
        f"The model is busy: {why}. Try again in a moment.",
        {"Retry-After": str(max(1, math.ceil(wait)))},
    )


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


class LocalEngine:
    """The engine in this process, in batches of whatever waits.

    A thread of its own takes the kind of work that has waited longest and does all of it that
    fits a batch; a request that finds the device idle is done at once. Work whose client has gone
    (its future is cancelled) is dropped. `observe` is told of every batch: the kind of work, its
    size, and the seconds that it took. At most `capacity` requests wait, and none longer than
    `deadline` seconds.
    """

    def __init__(
        self,
        bundle: Bundle,
        capacity: int = 256,
        deadline: float = 20.0,
        observe: Observe = lambda *_: None,
    ) -> None:
        self.bundle = bundle
        self._model = Model(bundle)
        self._capacity = capacity
        self._deadline = deadline
        self._observe = observe
        self._encode = Work("encode", self._model.encode, deque())
        self._decode = Work("decode", self._model.decode, deque())
        self._sample = Work("sample", self._model.sample, deque())
        self._works = (self._encode, self._decode, self._sample)
        self._limit = largest_batch(self._model.device)
        self._largest = self._limit  # less, for a while, after the memory was short
        self._failures = 0  # in a row
        self._seconds = 0.0  # that one request takes, of late
        self._changed = threading.Condition()
        settled = threading.Event()
        self._closing = False
        self._thread = threading.Thread(
            target=self._serve, args=(settled,), name="engine", daemon=True
        )
        self._thread.start()
        settled.wait()  # or requests would be measured with it

    @property
    def waiting(self) -> int:
        return sum(len(work.waiting) for work in self._works)

    @property
    def healthy(self) -> bool:
        """Whether it takes work, and the last few batches did not all fail."""
        return self._thread.is_alive() and not self._closing and self._failures < FATAL_FAILURES

    async def encode(self, crop: Pixels) -> tuple[Latent, float]:
        latent, bits_per_dim = await self._result(self._encode, crop)
        return latent, bits_per_dim

    async def decode(
        self,
        latent: Latent,
        strengths: dict[str, float] | None = None,
        offset: Latent | None = None,
    ) -> Pixels:
        crop: Pixels = await self._result(self._decode, (latent, strengths or {}, offset))
        return crop

    async def sample(self, count: int, temperature: float, seed: int) -> Latent:
        latents: Latent = await self._result(self._sample, (count, temperature, seed))
        return latents

    def close(self) -> None:
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
        return busy(why, self.waiting * self._seconds)

    def _forget_cancelled(self) -> None:
        for work in self._works:
            kept = [job for job in work.waiting if not job.result.cancelled()]
            work.waiting.clear()
            work.waiting.extend(kept)

    def _serve(self, settled: threading.Event) -> None:
        try:
            self._model.settle()
        finally:
            settled.set()
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
        if not out_of_memory(error):
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
