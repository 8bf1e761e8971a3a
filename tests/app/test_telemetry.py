"""What operators see of a real server, and what they do not."""

import json
import math
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.settings import Settings
from tests.helpers import Server, encoded, serving, wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: TestClient) -> Samples:
    response = client.get("http://testserver/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return samples(response.text)


def test_metrics_count_what_was_done(client: TestClient) -> None:
    before = scraped(client)
    ids = [entry["latent_id"] for entry in client.post("sample", json={"count": 3}).json()]
    for latent_id in ids:
        client.post("decode", json={"latent_id": latent_id})
        client.get(f"latents/{latent_id}")
    client.post("decode", json={"latent_id": "A" * 22})
    client.get("nothing")
    after = scraped(client)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert grown("glow_requests_total", method="POST", route="/decode", status="200") == 3
    assert grown("glow_requests_total", method="POST", route="/decode", status="404") == 1
    assert grown("glow_requests_total", method="GET", route="/latents/{latent_id}", status="200")
    assert grown("glow_requests_total", method="GET", route="page", status="404") == 1
    assert grown("glow_request_seconds_count", method="POST", route="/decode") == 4
    assert grown("glow_batch_size_sum", work="decode") == 3
    assert grown("glow_device_seconds_sum", work="decode") > 0
    assert after["glow_queue_depth", ()] == 0
    assert grown("glow_latents_alive") == 3
    client.delete(f"latents/{ids[0]}")
    assert scraped(client)["glow_latents_alive", ()] == after["glow_latents_alive", ()] - 1


def test_every_answer_carries_its_id(client: TestClient) -> None:
    ids = {client.get(path).headers["X-Request-ID"] for path in ("model", "nothing", "encode")}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)
    given = "0123456789abcdef-0123"
    for sent, kept in ((given, True), ("a" * 65, False), ("x" * 22, False), ("", False)):
        response = client.get("model", headers={"X-Request-ID": sent})
        assert (response.headers["X-Request-ID"] == sent) == kept


def test_an_unexpected_failure_is_a_problem_with_its_id(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("app.photos.write", breaks)
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    response = client.post("decode", json={"latent_id": latent_id})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["X-Request-ID"]
    assert "ZeroDivisionError" not in response.text
    assert "ZeroDivisionError" in caplog.text


def test_logs_are_json_with_the_request_id(bundle_path: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", GLOW_BUNDLE=str(bundle_path)) as url:
        with httpx2.Client(base_url=f"{url}/api/v1/") as client:
            sampled = client.post("sample", json={})
            latent_id = sampled.json()[0]["latent_id"]
            described = client.get(f"latents/{latent_id}")
            client.get(f"{latent_id}?{latent_id}")
        metrics = httpx2.get(f"{url}/metrics").text
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    by_id = {line["request_id"]: line for line in lines if line["message"] == "request"}
    line = by_id[described.headers["X-Request-ID"]]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/latents/{latent_id}", 200)
    assert line["milliseconds"] > 0
    assert {"time", "level", "logger"} <= line.keys()
    assert by_id[sampled.headers["X-Request-ID"]]["route"] == "/sample"
    assert latent_id not in (tmp_path / "log").read_text()
    assert latent_id not in metrics


def test_health_means_it(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("http://testserver/readyz").json() == {"status": "ready"}
    monkeypatch.setattr("app.engine.LocalEngine.healthy", False)
    for path in ("healthz", "readyz"):
        response = client.get(f"http://testserver/{path}")
        assert response.status_code == 503
        assert response.json()["type"] == "urn:glow-editor:engine-failed"


def test_a_store_out_of_reach_is_not_ready_and_not_counted(bundle_path: Path) -> None:
    settings = Settings(bundle=bundle_path, redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings)) as client:
        assert client.get("/healthz").status_code == 200
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        found = samples(client.get("/metrics").text)
        assert math.isnan(found["glow_latents_alive", ()])


def test_a_graceful_stop_finishes_what_was_accepted(bundle_path: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "log", {"GLOW_BUNDLE": str(bundle_path)})
    server.start()
    photo = encoded(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    stopping = threading.Event()

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        yield photo[:1000]
        assert stopping.wait(60)
        yield photo[1000:]
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="align"\r\n\r\nnone\r\n--b--\r\n'

    def in_progress() -> float:
        return samples(httpx2.get(f"{server.url}/metrics").text)["glow_requests_in_progress", ()]

    def refuses() -> bool:
        try:
            httpx2.get(f"{server.url}/healthz")
        except (httpx2.ConnectError, httpx2.ReadError):  # the latter as its socket closes
            return True
        return False

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(
            httpx2.post,
            f"{server.url}/api/v1/encode",
            content=body(),
            headers={"content-type": "multipart/form-data; boundary=b"},
            timeout=60,
        )
        wait_until(lambda: in_progress() == 2)  # the upload, and the question itself
        server.process.terminate()
        wait_until(refuses)
        stopping.set()
        assert answer.result().status_code == 201, answer.result().text
    assert server.process.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log.read_text()
