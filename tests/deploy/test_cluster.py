"""The service on a Ray cluster of two nodes: the contract that it has in one process holds there
too, also while a replica dies and another comes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.app.test_api import *  # noqa: F403
from tests.app.test_api import assert_problem
from tests.app.test_attributes import (  # noqa: F401
    lighter,
    test_an_attribute_from_examples_is_used_like_a_built_in_one,
)
from tests.app.test_live import (  # noqa: F401
    latent_id,
    test_a_deleted_latent_is_gone_here_too,
    test_a_frame_is_what_edit_answers,
    test_a_wrong_frame_is_told_of_and_the_next_is_served,
    test_an_unknown_format_is_refused,
    test_the_format_is_in_the_address,
)
from tests.app.test_pictures import (  # noqa: F401
    ids,
    test_a_mix_goes_from_one_face_to_the_other,
    test_a_sweep_is_a_strip_of_edits,
    test_the_same_request_gives_the_same_tag_and_bytes,
)
from tests.app.test_promises import (  # noqa: F401
    test_decode_of_encode_is_the_picture,
    test_strength_zero_is_the_photograph,
)
from tests.helpers import ROOT, encoded, free_port, pixels_of, wait_until

START_SECONDS = 300  # every process of a cluster imports torch anew, and a machine may be busy

QUEUE = 16


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def replicas(self, deployment: str) -> int:
        """How many are running, as Ray says."""
        states = self.folder / "states"
        count: int = json.loads(states.read_text()).get(deployment, 0) if states.exists() else 0
        return count

    def processes(self, deployment: str) -> set[int]:
        """Those of this cluster's replicas: its nodes' children, by the title that Ray gives."""
        nodes = children(self.process.pid)
        title = f"ray::ServeReplica:glow-editor:{deployment}"
        return {
            pid
            for node in nodes
            for pid in children(node)
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode())
        }


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


class Client(httpx2.Client):
    """Starlette's TestClient, as far as the contract's tests use it, over a socket."""

    def __init__(self, port: int) -> None:
        self._port = port
        transport = _To(port)
        super().__init__(transport=transport, base_url="http://testserver/api/v1/", timeout=60)

    @contextmanager
    def websocket_connect(self, path: str, headers: dict[str, str]) -> "Iterator[Session]":
        address = f"ws://127.0.0.1:{self._port}{path}"
        try:
            with connect(address, additional_headers=headers) as connection:
                yield Session(connection)
        except InvalidStatus as error:
            raise WebSocketDenialResponse(error.response.status_code) from error


class _To(httpx2.HTTPTransport):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        # anew: the one that was made is whose host cookies belong to
        there = httpx2.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1", port=self._port),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return super().handle_request(there)


class Session:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.send_text = self.send_bytes = connection.send

    def send_json(self, message: object) -> None:
        self._connection.send(json.dumps(message))

    def receive_bytes(self) -> bytes:
        data = self._connection.recv(30)
        assert isinstance(data, bytes)
        return data

    def receive_json(self) -> Any:
        data = self._connection.recv(30)
        assert isinstance(data, str)
        return json.loads(data)


def config(port: int) -> dict[str, Any]:
    """What KubeRay is given, on one processor and in a hurry."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    (service,) = (document for document in documents if document["kind"] == "RayService")
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["proxy_location"] = "HeadOnly"
    scaling = {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 0, "look_back_period_s": 1}
    scaling |= {"metrics_interval_s": 0.2, "target_ongoing_requests": 1}
    (application,) = config["applications"]
    application["deployments"] = [{"name": "Replica", "autoscaling_config": scaling}]
    return config


@pytest.fixture(scope="module")
def cluster(bundle_path: Path, redis_url: str, logs: Path) -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="glow"))  # short: sockets have their names in it
    port = free_port()
    file = folder / "config.json"
    file.write_text(json.dumps(config(port)))
    environment = {
        "GLOW_BUNDLE": str(bundle_path),
        "GLOW_DEVICE": "cpu",
        "GLOW_REDIS_URL": redis_url,
        "GLOW_MAX_UPLOAD_BYTES": "2000000",
        "GLOW_QUEUE": str(QUEUE),
        "GLOW_DEADLINE": str(START_SECONDS),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_automatic_object_spilling_enabled": "0",
    }
    with (logs / "cluster").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.deploy.cluster", file, folder],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )

    running = Running(process, port, folder)
    try:
        wait_until(
            lambda: running.replicas("Ingress") == running.replicas("Replica") == 1,
            process,
            START_SECONDS,
        )
        yield running
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(cluster: Running) -> Iterator[Client]:
    with Client(cluster.port) as client:
        yield client


def test_a_replica_killed_under_load(cluster: Running, client: Client) -> None:
    """A second one has come with the load; one of them is killed, no request fails, and there are
    two again."""
    sampled = client.post("sample", json={"count": 2, "seed": 1}).json()
    faces = [entry["latent_id"] for entry in sampled]
    finished = threading.Event()

    def load(number: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        photo = encoded(np.full((40, 40, 3), number, np.uint8))
        with Client(cluster.port) as own:
            while not finished.is_set():
                edit = {"latent_id": faces[number % 2], "attributes": {"older": number / 10}}
                for answer in (
                    own.post("edit", json=edit),
                    own.post("encode", files={"image": photo}, data={"align": "none"}),
                ):
                    good = answer.is_success
                    answers["served" if good else answer.json()["detail"]] += 1
        return answers

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, number) for number in range(4)]
        try:
            wait_until(lambda: cluster.replicas("Replica") == 2, cluster.process, START_SECONDS)
            before = cluster.processes("Replica")
            killed = before.pop()
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: cluster.replicas("Replica") == 1, cluster.process, START_SECONDS)
        finally:
            finished.set()
        answers = sum((load.result() for load in loads), Counter[str]())
    assert answers.keys() == {"served"}, answers
    wait_until(lambda: cluster.replicas("Replica") == 2, cluster.process, START_SECONDS)
    assert len(cluster.processes("Replica") - before - {killed}) == 1


def test_requests_past_the_queue_are_refused(cluster: Running, client: Client) -> None:
    """Of those that come while the replicas stand still, some wait, and the others are not let
    in."""
    (face,) = client.post("sample", json={"count": 1}).json()
    stopped = cluster.processes("Replica")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)

    def decode(_: int) -> httpx2.Response:
        with Client(cluster.port) as own:
            return own.post("decode", json={"latent_id": face["latent_id"]})

    with ThreadPoolExecutor(64) as pool:
        decodes = [pool.submit(decode, number) for number in range(64)]
        try:
            wait_until(lambda: any(one.done() for one in decodes), cluster.process)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        answers = [one.result() for one in decodes]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert len(answers) - len(refused) >= QUEUE
    for answer in answers:
        if answer in refused:
            assert_problem(answer, 503, "busy", "requests wait already", "Try again in a moment")
            assert int(answer.headers["Retry-After"]) >= 1
        else:
            assert answer.status_code == 200, answer.text


def test_nothing_of_a_photograph_reaches_a_disk(cluster: Running, client: Client) -> None:
    """Neither do ids, which open photographs, reach Ray's own logs."""
    mark = "Marguerite-Perey"
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    data = encoded(noise)
    assert len(data) > 10 * 100_000  # more than what Ray keeps outside its object store
    files = {"image": (f"{mark}.png", data)}
    opens = client.post("encode", files=files, data={"align": "none"}).json()["latent_id"]
    edit = {"latent_id": opens, "output": "photo"}
    assert (pixels_of(client.post("edit", json=edit).content) == noise).all()
    assert client.get(f"latents/{opens}").status_code == 200
    assert client.delete(f"latents/{opens}").status_code == 204
    written = [path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()]
    assert any(b'"route": "/latents/{latent_id}"' in content for content in written)
    for content in written:
        assert mark.encode() not in content
        assert opens.encode() not in content
        assert data[1000:1100] not in content
