"""Real processes are killed, stopped, filled and cut off; the service answers in words and is back
within a second of what it needs."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from safetensors import safe_open
from safetensors.torch import save_file

from model.bundle import Bundle
from tests.helpers import (
    ROOT,
    SMALL,
    Server,
    encoded,
    free_port,
    pixels_of,
    redis_server,
    small_flow,
    wait_until,
)

RECOVERY = 3.0  # seconds; one where no other tests run beside
CROPS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


class Redis:
    """A Redis that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = redis_server(self._folder, self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def server(
    store: Redis, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    environment = {"GLOW_BUNDLE": str(bundle_path), "GLOW_REDIS_URL": store.url}
    server = Server(tmp_path_factory.mktemp("server") / "log", environment)
    server.start()
    yield server
    server.stop()
    assert "Traceback" not in server.log.read_text()


def api(server: Server, **options: Any) -> httpx2.Client:
    return httpx2.Client(base_url=f"{server.url}/api/v1/", timeout=30, **options)


def upload(client: httpx2.Client, pixels: np.ndarray) -> httpx2.Response:
    return client.post("encode", files={"image": encoded(pixels)}, data={"align": "none"})


def decoded(client: httpx2.Client, latent_id: str) -> httpx2.Response:
    return client.post("decode", json={"latent_id": latent_id})


def ready(server: Server) -> int:
    return httpx2.get(f"{server.url}/readyz", timeout=30).status_code


def metric(server: Server, name: str, **labels: str) -> float:
    text = httpx2.get(f"{server.url}/metrics", timeout=30).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def recovers(server: Server, serves: Callable[[], bool]) -> None:
    wait_until(lambda: ready(server) == 200 and serves(), server.process, RECOVERY)


def assert_unavailable(response: httpx2.Response, kind: str = "store-unavailable") -> None:
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:glow-editor:{kind}"
    assert int(response.headers["Retry-After"]) >= 1


def test_redis_killed_and_restarted_under_load(server: Server, store: Redis) -> None:
    with api(server) as client, ThreadPoolExecutor(8) as pool:
        latent_id = upload(client, CROPS[0]).json()["latent_id"]
        finished = threading.Event()

        def load() -> Counter[int]:
            statuses: Counter[int] = Counter()
            with api(server) as own:
                while not finished.is_set():
                    statuses[decoded(own, latent_id).status_code] += 1
                    statuses[upload(own, CROPS[1]).status_code] += 1
            return statuses

        loads = [pool.submit(load) for _ in range(4)]
        try:
            store.kill()
            wait_until(lambda: decoded(client, latent_id).status_code == 503)
            assert_unavailable(decoded(client, latent_id))
            assert_unavailable(upload(client, CROPS[0]))
            assert ready(server) == 503
            assert httpx2.get(f"{server.url}/healthz").status_code == 200
            # what needs no store is served on
            latent = np.zeros(CROPS[0].size, np.float32)
            assert client.post("decode", **npy(latent)).status_code == 200
            store.start()
            recovers(server, lambda: upload(client, CROPS[0]).status_code == 201)
            assert decoded(client, latent_id).status_code == 404  # it was in memory alone
        finally:
            finished.set()
        statuses = sum((load.result() for load in loads), Counter[int]())
        assert statuses.keys() <= {200, 201, 404, 503}
        assert statuses[503]
    assert server.process.poll() is None


def npy(latent: np.ndarray) -> dict[str, Any]:
    out = io.BytesIO()
    np.save(out, latent)
    return {"content": out.getvalue(), "headers": {"content-type": "application/x-npy"}}


def test_a_redis_that_hangs(server: Server, store: Redis) -> None:
    with api(server) as client:
        latent_id = upload(client, CROPS[0]).json()["latent_id"]
        store.process.send_signal(signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(16) as pool:
                started = time.monotonic()
                for response in pool.map(lambda _: decoded(client, latent_id), range(16)):
                    assert_unavailable(response)
                assert ready(server) == 503
                # each waits for the timeout once, and none for another
                assert time.monotonic() - started < 10
        finally:
            store.process.send_signal(signal.SIGCONT)
        recovers(server, lambda: decoded(client, latent_id).status_code == 200)
        # no answer to one that gave up reaches another
        assert (pixels_of(decoded(client, latent_id).content) == CROPS[0]).all()


def test_a_redis_that_is_full_forgets_the_oldest(server: Server, store: Redis) -> None:
    with store.client() as control, api(server) as client:
        control.flushall()
        used = int(control.info("memory")["used_memory"])
        bound = used + 2_000_000
        control.config_set("maxmemory", bound)
        control.config_set("maxmemory-policy", "volatile-ttl")
        # of the few that it looks at by default the oldest may not be one
        control.config_set("maxmemory-samples", 64)
        ids = []
        for _ in range(80):  # some 30 kB each
            response = upload(client, CROPS[0])
            assert response.status_code == 201, response.text
            ids.append(response.json()["latent_id"])
            assert int(control.info("memory")["used_memory"]) < bound + 200_000
        kept = [decoded(client, latent_id).status_code == 200 for latent_id in ids]
        assert kept[-1]
        assert not kept[0]

        def left() -> int:
            return 80 - int(control.info("stats")["evicted_keys"])

        assert left() <= sum(kept)
        # Redis may have to forget one more to answer
        wait_until(lambda: metric(server, "glow_latents_alive") == left())
        control.config_set("maxmemory", 0)


def test_a_redis_that_is_full_and_may_forget_nothing(server: Server, store: Redis) -> None:
    with store.client() as control, api(server) as client:
        latent_id = upload(client, CROPS[0]).json()["latent_id"]
        control.config_set("maxmemory-policy", "noeviction")
        control.config_set("maxmemory", 100_000)
        assert_unavailable(upload(client, CROPS[1]), "store-full")
        assert decoded(client, latent_id).status_code == 200
        control.config_set("maxmemory", 0)
        assert upload(client, CROPS[1]).status_code == 201


def test_latents_outlive_a_server_that_is_killed(server: Server) -> None:
    with api(server) as client:
        latent_id = upload(client, CROPS[0]).json()["latent_id"]
    server.process.kill()
    server.process.wait()
    server.start()
    with api(server) as client:
        assert (pixels_of(decoded(client, latent_id).content) == CROPS[0]).all()


def test_replicas_serve_each_others_latents(server: Server, tmp_path: Path) -> None:
    second = Server(tmp_path / "log2", server.environment)
    second.start()
    try:
        with api(server) as here, api(second) as there:
            latent_id = upload(here, CROPS[0]).json()["latent_id"]
            edit = {"latent_id": latent_id, "attributes": {"older": 1}, "output": "photo"}
            assert here.post("edit", json=edit).content == there.post("edit", json=edit).content
            assert there.delete(f"latents/{latent_id}").status_code == 204
            assert decoded(here, latent_id).status_code == 404
            assert here.post("edit", json=edit).status_code == 404
    finally:
        second.stop()


def test_a_client_that_goes_in_mid_upload(server: Server) -> None:
    def gone() -> float:
        return metric(server, "glow_requests_total", route="/encode", status="gone")

    before = gone()
    head = (
        b"POST /api/v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    )
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + bytes(300_000))
    wait_until(lambda: gone() == before + 10)
    assert metric(server, "glow_requests_in_progress") == 1  # the question itself
    assert "ERROR" not in server.log.read_text()


def test_clients_that_go_in_mid_answer(store: Redis, tmp_path: Path) -> None:
    """What is not yet on the device for them is dropped, and the store's connections stay whole."""
    server = Server(tmp_path / "log", {"GLOW_REDIS_URL": store.url})
    server.start()
    try:
        with api(server) as client:
            kept = [entry["latent_id"] for entry in client.post("sample", json={"count": 2}).json()]
            before = [decoded(client, latent_id).content for latent_id in kept]
            body = b'{"latent_id": "%s"}' % kept[0].encode()
            request = (
                b"POST /api/v1/decode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            clients = 100
            connections = []
            for _ in range(clients):
                connection = socket.create_connection(("127.0.0.1", server.port))
                connection.sendall(request)
                connections.append(connection)
            for connection in connections:
                connection.close()
            wait_until(lambda: metric(server, "glow_requests_total", route="/decode") >= 102)
            assert metric(server, "glow_queue_depth") == 0
            assert metric(server, "glow_batch_size_sum", work="decode") < clients / 2
            assert [decoded(client, latent_id).content for latent_id in kept] == before
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()


def refused_start(bundle: Path, tmp_path: Path) -> str:
    server = Server(tmp_path / "log", {"GLOW_BUNDLE": str(bundle)})
    server.launch()
    assert server.process.wait(60) != 0
    first = server.log.read_text().splitlines()
    return next(line for line in first if "CRITICAL" in line)


def test_a_truncated_bundle_is_named_at_start(bundle_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(bundle_path.read_bytes()[:-1000])
    line = refused_start(broken, tmp_path)
    assert str(broken) in line
    assert "cannot be read" in line


def test_a_bundle_of_a_newer_format_is_named_at_start(bundle_path: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.safetensors"
    with safe_open(bundle_path, framework="pt") as file:
        header = json.loads(file.metadata()["glow-editor"]) | {"format": 99}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, newer, metadata={"glow-editor": json.dumps(header)})
    line = refused_start(newer, tmp_path)
    assert str(newer) in line
    assert "bundle format 99" in line


SHORT_OF_MEMORY = """
import asyncio, resource, sys
from pathlib import Path
import numpy as np, torch
from app.engine import LocalEngine
from model.bundle import Bundle

torch.set_num_threads(1)
sizes = []
bundle = Bundle.load(Path(sys.argv[1]))
engine = LocalEngine(bundle, observe=lambda work, size, seconds: sizes.append(size))

async def run():
    latents = await engine.sample(8, 0.7, 0)
    alone = [await engine.decode(latent) for latent in latents]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + 112 * 2**20
    sizes.clear()
    resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
    together = await asyncio.gather(*map(engine.decode, latents))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    # the last bit of float32 hangs on the size of the batch
    assert np.abs(np.stack(alone).astype(int) - np.stack(together)).max() <= 1

asyncio.run(run())
print(sizes)
"""


def test_memory_that_is_short_halves_the_batch(tmp_path: Path) -> None:
    """Under a real bound on the process: one activation of a batch of 8 takes 64 MiB or more."""
    path = tmp_path / "wide.safetensors"
    wide = replace(SMALL, resolution=128, steps=(1, 1, 1), hidden=(1024, 8, 8))
    Bundle("wide", small_flow(config=wide)).save(path)
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    assert sum(sizes) == 8
    assert max(sizes) < 8
