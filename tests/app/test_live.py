"""WS /live: the newest frame wins, with its number; nobody starves."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from torch import Tensor
from websockets.sync.client import connect

from app.main import create_app
from app.settings import Settings
from model.flow import Latent
from model.runtime import Runtime
from tests.helpers import encoded, pixels_of, serving

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture
def latent_id(client: TestClient) -> str:
    response = client.post("encode", files={"image": encoded(PHOTO)}, data={"align": "none"})
    return str(response.json()["latent_id"])


@contextmanager
def live(client: TestClient, query: str = "", **headers: str) -> Iterator[WebSocketTestSession]:
    with client.websocket_connect(f"/api/v1/live{query}", headers=headers) as socket:
        yield socket


def picture(frame: bytes) -> tuple[int, np.ndarray]:
    return int.from_bytes(frame[:4], "big"), pixels_of(frame[4:])


def test_a_frame_is_what_edit_answers(client: TestClient, latent_id: str) -> None:
    request: dict[str, Any] = {"latent_id": latent_id, "attributes": {"smiling": 0.5}}
    with live(client, "?format=png") as socket:
        for seq, output in ((0, "crop"), (2**32 - 1, "photo")):
            socket.send_json({**request, "output": output, "seq": seq})
            got, pixels = picture(socket.receive_bytes())
            assert got == seq
            edited = client.post("edit", json={**request, "output": output})
            assert (pixels == pixels_of(edited.content)).all()


@pytest.mark.parametrize(("query", "magic"), [("", b"\xff\xd8"), ("?format=webp", b"RIFF")])
def test_the_format_is_in_the_address(
    client: TestClient, latent_id: str, query: str, magic: bytes
) -> None:
    with live(client, query) as socket:
        socket.send_json({"latent_id": latent_id, "seq": 3})
        assert socket.receive_bytes()[4:].startswith(magic)


def test_a_wrong_frame_is_told_of_and_the_next_is_served(
    client: TestClient, latent_id: str
) -> None:
    good = {"latent_id": latent_id, "seq": 9}
    wrong: list[tuple[str, int | None, int, str]] = [
        ("{", None, 422, "invalid-request"),
        ("[]", None, 422, "invalid-request"),
        ("[" * 60_000, None, 422, "invalid-request"),
        (json.dumps({"latent_id": latent_id}), None, 422, "invalid-request"),
        (json.dumps({**good, "seq": -1}), -1, 422, "invalid-request"),
        (json.dumps({**good, "more": 1}), 9, 422, "invalid-request"),
        (json.dumps({**good, "attributes": {"smirk": 1}}), 9, 422, "unknown-attribute"),
        (json.dumps({**good, "attributes": {"older": 5}}), 9, 422, "strength-out-of-range"),
        (json.dumps({**good, "latent_id": "A" * 22}), 9, 404, "unknown-latent"),
    ]
    with live(client) as socket:
        for frame, seq, status, kind in wrong:
            socket.send_text(frame)
            problem = socket.receive_json()
            assert problem["seq"] == seq
            assert (problem["status"], problem["type"]) == (status, f"urn:glow-editor:{kind}")
            assert problem["detail"]
        socket.send_bytes(json.dumps(good).encode())  # as some clients send text
        assert picture(socket.receive_bytes())[0] == 9


def test_a_deleted_latent_is_gone_here_too(client: TestClient, latent_id: str) -> None:
    with live(client) as socket:
        socket.send_json({"latent_id": latent_id, "seq": 1})
        socket.receive_bytes()
        client.delete(f"latents/{latent_id}")
        socket.send_json({"latent_id": latent_id, "seq": 2})
        assert socket.receive_json()["type"] == "urn:glow-editor:unknown-latent"


def test_pages_of_other_origins_are_refused(bundle_path: Path) -> None:
    closed = Settings(bundle=bundle_path)
    opened = Settings(bundle=bundle_path, cors_origins=["https://friend.example"])
    for settings, origin, accepted in (
        (closed, "http://testserver", True),
        (closed, "https://friend.example", False),
        (closed, "null", False),
        (opened, "https://friend.example", True),
        (opened, "https://foe.example", False),
    ):
        with TestClient(create_app(settings)) as client:
            if accepted:
                with live(client, origin=origin) as socket:
                    socket.send_text("{}")
                    socket.receive_json()
            else:
                with (
                    pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
                    live(client, origin=origin),
                ):
                    pass


def test_an_unknown_format_is_refused(client: TestClient) -> None:
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), live(client, "?format=gif"):
        pass


def test_the_newest_frame_wins(
    client: TestClient, latent_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Runtime.decode
    reached, opened = threading.Event(), threading.Event()

    def held(runtime: Runtime, latent: Latent) -> Tensor:
        reached.set()
        assert opened.wait(30)
        return decode(runtime, latent)

    monkeypatch.setattr(Runtime, "decode", held)

    def skipped() -> bool:
        metrics = client.get("http://testserver/metrics").text
        return 'glow_live_frames_total{outcome="skipped"} 8.0' in metrics

    with live(client) as socket:
        socket.send_json({"latent_id": latent_id, "seq": 0})
        assert reached.wait(30)
        for seq in range(1, 10):
            socket.send_json({"latent_id": latent_id, "seq": seq})
        deadline = time.monotonic() + 30
        while not skipped():
            assert time.monotonic() < deadline
        opened.set()
        assert [picture(socket.receive_bytes())[0] for _ in range(2)] == [0, 9]


def test_none_starves_and_each_gets_its_newest(bundle_path: Path, tmp_path: Path) -> None:
    """Eight hands drag at once, each far faster than the device decodes."""
    hands, frames = 8, 60
    with serving(tmp_path / "log", GLOW_BUNDLE=str(bundle_path)) as url:
        sampled = httpx2.post(f"{url}/api/v1/sample", json={"count": hands}, timeout=60).json()
        ids = [entry["latent_id"] for entry in sampled]
        start = threading.Barrier(hands)

        def drag(latent_id: str) -> list[int]:
            seen = []
            with connect(f"{url.replace('http', 'ws')}/api/v1/live") as socket:
                start.wait(30)
                for seq in range(frames):
                    strength = seq / frames
                    frame = {"latent_id": latent_id, "attributes": {"older": strength}, "seq": seq}
                    socket.send(json.dumps(frame))
                while not seen or seen[-1] < frames - 1:
                    data = socket.recv(timeout=30)
                    assert isinstance(data, bytes)
                    seen.append(int.from_bytes(data[:4], "big"))
            return seen

        with ThreadPoolExecutor(hands) as pool:
            for seen in pool.map(drag, ids):
                assert seen == sorted(set(seen))
                assert seen[-1] == frames - 1
