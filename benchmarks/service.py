"""The real server with a real Redis under closed-loop clients, beside its own bare model and beside
the same application with one lock around the model, in one run.

    python benchmarks/service.py [--bundle PATH] [--seconds N] [--json]

A closed-loop client sends its next request when it has the answer to the last. Clients, servers and
Redis share the cores that this process may use (`taskset -c 1 …`), so what the clients and Redis
take is taken from the servers; the bare model runs while the servers are idle. Servers that are
compared take turns.

- edit_p50_over_decode: median of one client's /edit of a crop, over the bare decode at batch 1;
- throughput64_over_engine: 64 clients' edits a second, over what the engine alone does of the same
  edits at its best batch;
- throughput64_over_lock: the same, over 64 clients' of the application with one lock around the
  flow itself, as the demo of Glow's authors had it;
- throughput64_over_locked_runtime: over those of one lock around the runtime;
- p99_over_p50_64: of 64 clients' latencies;
- live_over_decode: 16 connections of /live drag at 30 frames a second to the slider's end; the
  longest that any waited for the last frame it sent, over what the engine alone takes for the last
  frames of all;
- live_least_over_mean: pictures of the connection that got least, over the mean of all;
- memory_growth: the server's memory after 20 000 requests of every kind, over that after 2 000, on
  a small model, less one.
"""

import asyncio
import gc
import itertools
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import aiohttp
import httpx2
import numpy as np
import torch
import typer
import uvicorn
from numpy.typing import NDArray
from websockets.asyncio.client import connect

import model
from app.device import Model
from app.engine import LocalEngine
from app.main import create_app
from app.photos import Pixels, write
from app.settings import Settings
from model.bundle import Bundle, Direction
from model.config import FlowConfig
from model.flow import Flow
from model.runtime import Runtime, fastest, keep_freed_memory

SHIPPED = Path(model.__file__).parent / "bundles" / "faces128.safetensors"
SMALL = FlowConfig(resolution=32, steps=(2, 2, 2), hidden=(16, 16, 16))
BATCHES = (1, 2, 4, 8, 16, 32)
CLIENTS = 64
EDITS = 192  # that the engine alone does at each batch size, three of each face
GOLDEN = (5**0.5 - 1) / 2
HANDS, RATE = 16, 30  # connections of /live, and frames a second of each
WARM, WHOLE = 2_000, 20_000  # requests after which memory is read


class LockEngine(LocalEngine):
    """One lock around the model, and each request alone in it."""

    async def _result(self, work: Any, input: Any) -> Any:
        lock = self.__dict__.setdefault("lock", asyncio.Lock())
        async with lock:
            return (await asyncio.to_thread(work.run, [input]))[0]


def serve_with_lock(port: int, runtime: bool) -> None:
    keep_freed_memory()
    program = fastest if runtime else lambda flow: flow
    with patch("app.main.LocalEngine", LockEngine), patch("app.device.fastest", program):
        application = create_app(Settings())
        gc.freeze()
        uvicorn.run(application, port=port, log_level="warning", access_log=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], ready: Callable[[], bool], **environment: str) -> Iterator[int]:
    """A process that is ready; its id."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis() -> Iterator[str]:
    executable = shutil.which("redis-server")
    if not executable:
        raise typer.BadParameter("redis-server is not on the path")
    port = free_port()

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    options = ["--save", "", "--appendonly", "no"]
    with running([executable, "--port", str(port), *options], answers):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def server(
    command: list[str], port: int, bundle: Path, redis_url: str
) -> Iterator[tuple[str, int]]:
    """Its URL and the id of its process."""
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    environment = {"PORT": str(port), "GLOW_BUNDLE": str(bundle), "GLOW_REDIS_URL": redis_url}
    with running([sys.executable, *command], answers, **environment) as process:
        yield url, process


def seconds_of_decode(program: Runtime | Flow, flow: Flow, size: int, seconds: float) -> float:
    """Median time of a bare decode to 8-bit pixels, by the program that serves the flow."""
    with torch.inference_mode():
        latent = flow.unflatten(flow.flatten(flow.sample_latent(size)).double())
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            flow.quantize(program.decode(latent))
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def share_of(number: int) -> float:
    """Of the slider, for an edit by its number: all over it and never the same twice, however
    fast edits are done. Some cost three times what others do."""
    return number * GOLDEN % 1.0


class Alone:
    """The engine's model without its queue: edits that clients ask for, of the same latents."""

    def __init__(self, bundle: Bundle, direction: Direction) -> None:
        self._model = Model(bundle)
        self._direction = direction
        drawn = bundle.flow.sample_latent(CLIENTS, seed=1)
        self._latents = bundle.flow.flatten(drawn).double().numpy()

    def seconds(self, shares: list[float], first: int = 0) -> float:
        """Time of one batch of edits by these shares of the slider, from a face on."""
        edits = []
        for i, share in enumerate(shares, first):
            strengths = {self._direction.name: share * self._direction.max}
            edits.append((self._latents[i % CLIENTS], strengths, None))
        start = time.perf_counter()
        self._model.decode(edits)
        return time.perf_counter() - start

    def rate(self, size: int) -> float:
        """Edits a second in batches of a size."""
        taken = sum(
            self.seconds([share_of(n) for n in range(first, first + size)], first)
            for first in range(0, EDITS, size)
        )
        return EDITS / taken


@asynccontextmanager
async def client_of(url: str, clients: int) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(
        base_url=f"{url}/api/v1/", limits=limits, timeout=120, trust_env=False
    ) as client:
        yield client


def checked(response: httpx2.Response) -> httpx2.Response:
    if not response.is_success:
        raise RuntimeError(f"{response.status_code}: {response.text}")
    return response


async def sampled(client: httpx2.AsyncClient, count: int) -> list[str]:
    response = checked(await client.post("sample", json={"count": count, "seed": 1}))
    return [entry["latent_id"] for entry in response.json()]


async def edits(
    url: str, direction: Direction, clients: int, seconds: float
) -> tuple[float, NDArray[np.float64]]:
    """Edits a second of so many closed-loop clients, and the latency of each in seconds."""
    latencies: list[float] = []
    async with client_of(url, 1) as client:
        ids = await sampled(client, clients)
    # a connection that waits for the warm-up's last is closed here before the server may close it
    connector = aiohttp.TCPConnector(limit=clients, keepalive_timeout=1)
    numbers = itertools.count()
    # of the clients at hand the one that takes least of the cores
    async with aiohttp.ClientSession(f"{url}/api/v1/", connector=connector) as session:

        async def loop(latent_id: str, end: float) -> None:
            while (start := time.perf_counter()) < end:
                strength = direction.max * share_of(next(numbers))
                request = {"latent_id": latent_id, "attributes": {direction.name: strength}}
                async with session.post("edit", json=request) as response:
                    if not response.ok:
                        raise RuntimeError(f"{response.status}: {await response.text()}")
                    await response.read()
                latencies.append(time.perf_counter() - start)

        async def loops(seconds: float) -> float:
            begin = time.perf_counter()
            await asyncio.gather(*(loop(latent_id, begin + seconds) for latent_id in ids))
            return time.perf_counter() - begin

        await loops(min(2.0, seconds))  # warm-up
        latencies.clear()
        taken = await loops(seconds)
    return len(latencies) / taken, np.array(latencies)


async def drag(url: str, direction: Direction, seconds: float) -> tuple[list[float], list[int]]:
    """By connection: seconds from the last frame sent to its picture, and pictures it got."""
    async with client_of(url, 1) as client:
        ids = await sampled(client, HANDS)
    frames = int(seconds * RATE)

    async def hand(latent_id: str) -> tuple[float, int]:
        got = 0
        async with connect(f"{url.replace('http', 'ws')}/api/v1/live") as live:

            async def move() -> float:
                start = time.perf_counter()
                for seq in range(frames):
                    await asyncio.sleep(max(0.0, start + seq / RATE - time.perf_counter()))
                    strengths = {direction.name: direction.max * seq / frames}
                    frame = {"latent_id": latent_id, "attributes": strengths, "seq": seq}
                    await live.send(json.dumps(frame))
                return time.perf_counter()

            moving = asyncio.create_task(move())
            while True:
                data = await live.recv()
                if isinstance(data, str):
                    raise RuntimeError(data)
                got += 1
                if int.from_bytes(data[:4], "big") == frames - 1:
                    return time.perf_counter() - await moving, got

    hands = await asyncio.gather(*map(hand, ids))
    return [waited for waited, _ in hands], [got for _, got in hands]


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def small_bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    flow = Flow(SMALL).eval()
    flow.initialize(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    vector = torch.randn(SMALL.dimensions) * 0.1
    direction = Direction("older", "Age", "Look", vector, 20, 30, 0.0, 1.0, -1, 1)
    path = folder / "small.safetensors"
    Bundle("small", flow, [direction]).save(path)
    return path


async def memory(url: str, process: int) -> tuple[int, int]:
    """Of the server, after WARM and after WHOLE requests of every kind from 16 clients."""
    noise: Pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    upload = write(noise, "jpeg")
    sent = 0
    reached = asyncio.Event()
    readings: list[int] = []

    async def loop(client: httpx2.AsyncClient) -> None:
        nonlocal sent
        while True:
            files, data = {"image": upload}, {"align": "none"}
            encoded = await client.post("encode", files=files, data=data)
            latent_id = checked(encoded).json()["latent_id"]
            edit = {"latent_id": latent_id, "attributes": {"older": 0.5}}
            answers = [
                encoded,
                await client.post("decode", json={"latent_id": latent_id}),
                await client.post("edit", json=edit),
                await client.post("edit", json={**edit, "output": "photo"}),
                await client.get(f"latents/{latent_id}"),
                await client.get("attributes"),
                await client.delete(f"latents/{latent_id}"),
            ]
            for answer in answers:
                checked(answer)
                sent += 1
                if sent in (WARM, WHOLE):
                    readings.append(resident(process))
                if sent >= WHOLE:
                    reached.set()
                    return
            if reached.is_set():
                return

    async with client_of(url, 16) as client:
        await asyncio.gather(*(loop(client) for _ in range(16)))
    return readings[0], readings[1]


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = SHIPPED,
    seconds: Annotated[float, typer.Option(min=1, help="Of every measurement.")] = 20.0,
    skip_memory: Annotated[bool, typer.Option(help="Leave out the 20 000 requests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    lock_port: Annotated[int, typer.Option(hidden=True)] = 0,
    lock_runtime: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure the service under load."""
    if lock_port:
        serve_with_lock(lock_port, lock_runtime)
        return
    keep_freed_memory()
    loaded = Bundle.load(bundle)
    flow, direction = loaded.flow, loaded.directions[0]
    program = fastest(flow)
    if isinstance(program, Runtime):
        program.set_threads()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{bundle.stem}, CPU {platform.machine()}, {cores} core(s) for clients, servers and Redis, "
        f"torch {torch.__version__} with {torch.get_num_threads()} thread(s), load of the machine "
        f"at the start {os.getloadavg()[0]:.1f}; {seconds:.0f} s each\n"
    )
    rows: list[tuple[str, str]] = []
    figures: dict[str, float] = {}
    lock, other = [__file__, "--lock-port"], [__file__, "--lock-runtime", "--lock-port"]
    ports = free_port(), free_port(), free_port()
    with (
        redis() as store,
        server(["-m", "app"], ports[0], bundle, store) as (url, _),
        server([*lock, str(ports[1])], ports[1], bundle, store) as (lock_url, _),
        server([*other, str(ports[2])], ports[2], bundle, store) as (other_url, _),
    ):
        alone = Alone(loaded, direction)
        alone.rate(BATCHES[-1])  # warm-up
        best = max(BATCHES, key=alone.rate)
        # halves before and after, so that a machine that slows down does so for both
        ones: list[NDArray[np.float64]] = []
        decodes = []
        for _ in range(4):
            decodes.append(seconds_of_decode(program, flow, 1, seconds / 4))
            ones.append(asyncio.run(edits(url, direction, 1, seconds / 4))[1])
        decode, one = float(np.median(decodes)), float(np.median(np.concatenate(ones)))
        many, locked, locked_runtime, latencies, engines = [], [], [], [], []
        for _ in range(2):
            throughput, taken = asyncio.run(edits(url, direction, CLIENTS, seconds / 2))
            many.append(throughput)
            latencies.append(taken)
            for server_url, found in ((lock_url, locked), (other_url, locked_runtime)):
                found.append(asyncio.run(edits(server_url, direction, CLIENTS, seconds / 2))[0])
            engines.append(alone.rate(best))
        engine = float(np.mean(engines))
        p50, p99 = np.percentile(np.concatenate(latencies), (50, 99))
        waited, got = asyncio.run(drag(url, direction, seconds / 2))
        batch = float(np.median([alone.seconds([1.0] * HANDS) for _ in range(5)]))
        figures = {
            "edit_p50_over_decode": one / decode,
            "throughput64_over_engine": np.mean(many) / engine,
            "throughput64_over_lock": np.mean(many) / np.mean(locked),
            "throughput64_over_locked_runtime": np.mean(many) / np.mean(locked_runtime),
            "p99_over_p50_64": p99 / p50,
            "live_over_decode": max(waited) / batch,
            "live_least_over_mean": min(got) / np.mean(got),
        }
        rows = [
            ("bare decode, batch 1", f"{decode * 1e3:.1f} ms"),
            (f"edits of the engine alone, best batch ({best})", f"{engine:.1f} img/s"),
            (f"last frames of {HANDS} hands, the engine alone", f"{batch * 1e3:.0f} ms"),
            ("/edit, 1 client, p50", f"{one * 1e3:.1f} ms"),
            (f"/edit, {CLIENTS} clients", f"{np.mean(many):.1f} img/s"),
            (f"/edit, {CLIENTS} clients, p50 and p99", f"{p50:.2f} s, {p99:.2f} s"),
            (f"one lock, {CLIENTS} clients", f"{np.mean(locked):.1f} img/s"),
            (
                f"one lock around the runtime, {CLIENTS} clients",
                f"{np.mean(locked_runtime):.1f} img/s",
            ),
            (f"/live, {HANDS} hands, longest wait", f"{max(waited) * 1e3:.0f} ms"),
            (f"/live, {HANDS} hands, pictures each", f"{min(got)} to {max(got)}"),
        ]
    if not skip_memory:
        with tempfile.TemporaryDirectory() as folder, redis() as store:
            small, port = small_bundle(Path(folder)), free_port()
            with server(["-m", "app"], port, small, store) as (url, process):
                before, after = asyncio.run(memory(url, process))
        figures["memory_growth"] = after / before - 1
        mebibytes = f"{before / 2**20:.0f} MiB, {after / 2**20:.0f} MiB"
        rows.append((f"memory after {WARM} and {WHOLE} requests", mebibytes))
    for name, value in rows:
        print(f"{name:44}{value:>24}")
    print()
    for name, figure in figures.items():
        print(f"{name:44}{figure:>24.3f}")
    if as_json:
        rounded = {name: round(float(figure), 4) for name, figure in figures.items()}
        print(json.dumps({**rounded, "best_batch": best, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    typer.run(main)
