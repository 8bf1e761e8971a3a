"""The engine on a real flow; where the device must be slow or full, the flow says so."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app import photos
from app.device import LARGEST_BATCH
from app.engine import LocalEngine
from app.errors import Problem
from model.attributes import bursts, edited
from model.bundle import Bundle, Direction
from model.flow import Latent
from model.runtime import Runtime
from tests.helpers import SMALL, small_flow

LARGEST = LARGEST_BATCH["cpu"]
CROPS = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
Batches = list[tuple[str, int]]


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.load(bundle_path)


@contextmanager
def running(bundle: Bundle, **options: float) -> Iterator[tuple[LocalEngine, Batches]]:
    """An engine, and the batches that it has made."""
    batches: Batches = []

    def observe(work: str, size: int, _: float) -> None:
        batches.append((work, size))

    engine = LocalEngine(bundle, observe=observe, **options)
    try:
        yield engine, batches
    finally:
        engine.close()


class Gate:
    """Holds every decode until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Semaphore(0)
        self._open = threading.Event()
        decode = Runtime.decode

        def held(runtime: Runtime, latent: Latent) -> Tensor:
            self.reached.release()
            assert self._open.wait(30)
            return decode(runtime, latent)

        monkeypatch.setattr(Runtime, "decode", held)

    def open(self) -> None:
        self._open.set()

    async def closed_behind(self, first: asyncio.Task[np.ndarray]) -> None:
        """Returns when the first decode is on the device, which is then taken."""
        assert not first.done()
        assert await asyncio.to_thread(self.reached.acquire, timeout=30)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def latents(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, SMALL.dimensions)) * 0.5


def test_what_comes_back_is_what_went_in_whatever_the_batches(bundle: Bundle) -> None:
    async def run() -> None:
        with running(bundle) as (engine, batches):
            encoded = await asyncio.gather(*map(engine.encode, CROPS))
            assert max(size for _, size in batches) == LARGEST
            decoded = [await engine.decode(latent) for latent, _ in encoded[:4]]
            together = await asyncio.gather(*(engine.decode(latent) for latent, _ in encoded))
            assert (np.stack(together) == CROPS).all()
            assert (np.stack(decoded) == CROPS[:4]).all()
            assert decoded[0].dtype == np.uint8

    asyncio.run(run())


def test_it_agrees_with_the_flow(bundle: Bundle) -> None:
    async def run() -> None:
        flow = bundle.flow
        images = torch.from_numpy(CROPS[:3]).permute(0, 3, 1, 2)
        runtime = Runtime(flow)
        expected = flow.flatten(runtime.encode(images)).numpy()
        log_prob = flow.log_prob(images[:1], torch.Generator().manual_seed(0))
        with running(bundle) as (engine, _):
            encoded = await asyncio.gather(*map(engine.encode, CROPS[:3]))
            for (latent, _), row in zip(encoded, expected, strict=True):
                assert latent.dtype == np.float64
                np.testing.assert_array_equal(latent, row)
            assert encoded[0][1] == pytest.approx(flow.bits_per_dim(log_prob).item(), rel=5e-3)
            # whatever it was encoded with
            assert (await engine.encode(CROPS[0]))[1] == pytest.approx(encoded[0][1], abs=1e-5)
            moved = expected[0] + 0.7 * bundle.directions[1].vector.double().numpy()
            latent = flow.unflatten(torch.from_numpy(moved)[None])
            picture = flow.quantize(runtime.decode(latent))
            edited = await engine.decode(encoded[0][0], {"older": 0.7})
            difference = edited.astype(int) - picture[0].permute(1, 2, 0).numpy()
            assert np.abs(difference).max() <= 1
            assert (difference != 0).mean() < 1e-3
            flat = torch.from_numpy(expected[0])
            assert bundle.readings(expected[0]) == {
                direction.name: pytest.approx(direction.reading(flat), abs=1e-3)
                for direction in bundle.directions
            }

    asyncio.run(run())


def test_strength_zero_leaves_the_latent_bit_for_bit(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    decode = Runtime.decode

    def spied(runtime: Runtime, latent: Latent) -> Tensor:
        seen.append(bundle.flow.flatten(latent).clone())
        return decode(runtime, latent)

    monkeypatch.setattr(Runtime, "decode", spied)

    async def run() -> None:
        with running(bundle) as (engine, _):
            rows = latents(3)
            for strengths in ({}, {"smiling": 0.0, "older": -0.0}):
                await asyncio.gather(
                    engine.decode(rows[0], strengths),
                    engine.decode(rows[1], {"smiling": 1.0}),
                    engine.decode(rows[2], strengths),
                )
            together = torch.cat(seen).numpy()
            for row in (rows[0], rows[2]):
                assert (together == row).all(1).sum() == 2
            assert not (together == rows[1]).all(1).any()

    asyncio.run(run())


def test_a_step_that_would_burst_the_picture_is_shortened(bundle: Bundle) -> None:
    """By the directions or beside them; its neighbours in the batch take theirs whole."""
    bundle.directions = [
        replace(bundle.directions[0], name="far", vector=torch.full((SMALL.dimensions,), 3.0))
    ]
    flow, runtime = bundle.flow, Runtime(bundle.flow)
    latent = 0.1 * latents(1)[0]

    def at(offset: float) -> Tensor:
        with torch.inference_mode():
            moved = torch.from_numpy(latent + offset)[None]
            return runtime.decode(flow.unflatten(moved))

    def pixels(picture: Tensor) -> np.ndarray:
        return flow.quantize(picture)[0].permute(1, 2, 0).numpy()

    assert bursts(at(3.0)).all()
    assert not bursts(at(0.0)).any()
    _, shares = edited(
        lambda z: runtime.decode(flow.unflatten(z)),
        torch.from_numpy(latent)[None],
        torch.full((1, SMALL.dimensions), 3.0, dtype=torch.float64),
    )
    share = shares.item()
    assert 0 < share < 1

    async def run() -> None:
        with running(bundle) as (engine, _):
            by_strength, by_offset, still = await asyncio.gather(
                engine.decode(latent, {"far": 1.0}),
                engine.decode(latent, offset=np.full(SMALL.dimensions, 3.0)),
                engine.decode(latent),
            )
            np.testing.assert_array_equal(by_strength, pixels(at(3.0 * share)))
            np.testing.assert_array_equal(by_offset, by_strength)
            np.testing.assert_array_equal(still, pixels(at(0.0)))

    asyncio.run(run())


@pytest.mark.parametrize("bits", [1, 5])
def test_fewer_bits_are_scaled_to_eight(bits: int) -> None:
    config = replace(SMALL, bits=bits)
    direction = Direction("smiling", "", "", torch.ones(config.dimensions), 1, 1, 0, 1, -1, 1)

    async def run() -> None:
        with running(Bundle("few", small_flow(config=config), [direction])) as (engine, _):
            crop = CROPS[0]
            decoded = await engine.decode((await engine.encode(crop))[0])
            assert (decoded == photos.quantized(crop, bits)).all()
            levels = 2**bits - 1
            assert (decoded == np.rint((crop >> (8 - bits)) * (255 / levels))).all()
            assert (decoded.min(), decoded.max()) == (0, 255)
            again = await engine.decode((await engine.encode(decoded))[0])
            assert (again == decoded).all()

    asyncio.run(run())


def test_an_idle_device_waits_for_nobody_and_a_busy_one_gathers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        with running(bundle) as (engine, batches):
            rows = latents(LARGEST + 5)
            first = asyncio.create_task(engine.decode(rows[0]))
            await gate.closed_behind(first)
            rest = [asyncio.create_task(engine.decode(row)) for row in rows[1:]]
            encoded = asyncio.create_task(engine.encode(CROPS[0]))
            await until(lambda: engine.waiting == LARGEST + 5)
            gate.open()
            await asyncio.gather(first, *rest, encoded)
            decodes = [size for work, size in batches if work == "decode"]
            assert decodes == [1, LARGEST, 4]
            assert ("encode", 1) in batches  # never in one batch with a decode

    asyncio.run(run())


def test_work_whose_client_has_gone_is_dropped(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        with running(bundle, capacity=4) as (engine, batches):
            rows = latents(9)
            first = asyncio.create_task(engine.decode(rows[0]))
            await gate.closed_behind(first)
            gone = [asyncio.create_task(engine.decode(row)) for row in rows[1:5]]
            await until(lambda: engine.waiting == 4)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
            # nor do they keep others out
            rest = [asyncio.create_task(engine.decode(row)) for row in rows[5:7]]
            await until(lambda: engine.waiting == 2)
            gate.open()
            await asyncio.gather(first, *rest)
            assert batches == [("decode", 1), ("decode", 2)]

    asyncio.run(run())


def test_a_full_queue_refuses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        with running(bundle, capacity=2) as (engine, _):
            rows = latents(4)
            first = asyncio.create_task(engine.decode(rows[0]))
            await gate.closed_behind(first)
            waiting = [asyncio.create_task(engine.decode(row)) for row in rows[1:3]]
            await until(lambda: engine.waiting == 2)
            for call in (engine.decode(rows[3]), engine.encode(CROPS[0])):
                with pytest.raises(Problem, match="2 requests wait") as error:
                    await call
                assert (error.value.status_code, error.value.kind) == (503, "busy")
                assert error.value.headers
                assert int(error.value.headers["Retry-After"]) >= 1
            gate.open()
            await asyncio.gather(first, *waiting)

    asyncio.run(run())


def test_a_request_that_is_not_reached_in_time_is_told_so_and_dropped(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        with running(bundle, deadline=0.2) as (engine, batches):
            rows = latents(3)
            calls = [asyncio.create_task(engine.decode(rows[0]))]
            await gate.closed_behind(calls[0])
            calls += [asyncio.create_task(engine.decode(row)) for row in rows[1:]]
            for call in calls:
                with pytest.raises(Problem, match="in time") as error:
                    await call
                assert error.value.status_code == 503
            gate.open()
            assert (await engine.decode(rows[0])).shape == (32, 32, 3)
            await until(lambda: len(batches) == 2)
            assert batches == [("decode", 1)] * 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_halves_the_batch_and_the_requests_survive(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    room = 3
    decode = Runtime.decode
    tried: list[int] = []

    def small(runtime: Runtime, latent: Latent) -> Tensor:
        tried.append(len(latent[0]))
        if len(latent[0]) > room:
            raise error
        return decode(runtime, latent)

    async def run() -> None:
        nonlocal room
        with running(bundle) as (engine, batches):
            rows = latents(LARGEST)
            expected = await asyncio.gather(*map(engine.decode, rows))
            monkeypatch.setattr(Runtime, "decode", small)
            batches.clear()
            decoded = await asyncio.gather(*map(engine.decode, rows))
            assert np.abs(np.stack(decoded).astype(int) - np.stack(expected)).max() <= 1
            assert sum(size for _, size in batches) == LARGEST
            assert max(size for _, size in batches) <= 3
            assert max(tried) > 3
            room = 0
            with pytest.raises(Problem, match="memory") as problem:
                await engine.decode(rows[0])
            assert problem.value.status_code == 503
            room = LARGEST  # there is memory again: so are large batches
            for _ in range(LARGEST):
                await engine.decode(rows[0])
            batches.clear()
            await asyncio.gather(*map(engine.decode, latents(40)))
            assert max(size for _, size in batches) == LARGEST

    asyncio.run(run())


def test_a_failure_is_of_its_batch_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Runtime.decode
    broken = threading.Event()

    def breaks(runtime: Runtime, latent: Latent) -> Tensor:
        if broken.is_set():
            raise ZeroDivisionError
        return decode(runtime, latent)

    monkeypatch.setattr(Runtime, "decode", breaks)

    async def run() -> None:
        with running(bundle) as (engine, _):
            broken.set()
            for _ in range(3):
                assert engine.healthy
                with pytest.raises(ZeroDivisionError):
                    await engine.decode(latents(1)[0])
            assert not engine.healthy
            broken.clear()
            assert (await engine.decode(latents(1)[0])).shape == (32, 32, 3)
            assert engine.healthy

    asyncio.run(run())


def test_closing_finishes_what_was_accepted(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        engine = LocalEngine(bundle)
        calls = [asyncio.create_task(engine.decode(row)) for row in latents(LARGEST + 4)]
        await gate.closed_behind(calls[0])
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        await until(lambda: not engine.healthy)
        with pytest.raises(Problem, match="stopping") as error:
            await engine.decode(latents(1)[0])
        assert error.value.status_code == 503
        gate.open()
        assert all(crop.shape == (32, 32, 3) for crop in await asyncio.gather(*calls))
        await closing

    asyncio.run(run())


def test_an_idle_engine_holds_no_photograph(bundle: Bundle) -> None:
    async def run() -> weakref.ref[np.ndarray]:
        crop = CROPS[0].copy()
        await engine.encode(crop)
        return weakref.ref(crop)

    with running(bundle) as (engine, _):
        crop = asyncio.run(run())
        deadline = time.monotonic() + 10
        while crop() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert crop() is None
