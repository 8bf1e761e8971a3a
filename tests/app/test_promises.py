"""The design's promises, as far as the service keeps them; the flow's own are in tests/model."""

import io
import math
import os
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.helpers import encoded, pixels_of, serving

EACH = trials(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@EACH
@given(crop=arrays(np.uint8, (32, 32, 3)))
def test_decode_of_encode_is_the_picture(client: TestClient, crop: np.ndarray) -> None:
    sent = client.post("encode", files={"image": encoded(crop)}, data={"align": "none"}).json()
    got = client.post("decode", json={"latent_id": sent["latent_id"]})
    assert (pixels_of(got.content) == crop).all()


@EACH
@given(photo=arrays(np.uint8, (37, 53, 3)))
def test_strength_zero_is_the_photograph(client: TestClient, photo: np.ndarray) -> None:
    sent = client.post("encode", files={"image": encoded(photo)}, data={"align": "none"}).json()
    for strengths in ({}, {"smiling": 0, "older": -0.0}):
        got = client.post(
            "edit",
            json={"latent_id": sent["latent_id"], "attributes": strengths, "output": "photo"},
        )
        assert (pixels_of(got.content) == photo).all()


def test_an_id_is_not_derived_from_the_photograph(client: TestClient, portrait: np.ndarray) -> None:
    def latent_id() -> str:
        response = client.post("encode", files={"image": encoded(portrait)})
        return str(response.json()["latent_id"])

    ids = [latent_id() for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(latent_id) * math.log2(64) >= 128 for latent_id in ids)


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_nothing_of_a_photograph_reaches_a_log_or_a_disk(
    store: str, bundle_path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A photograph that carries marks, in its metadata and its name, goes through every call of a
    real server whose temporary files and working files are all under one empty directory."""
    mark = "Marguerite-Perey"
    exif = Image.Exif()
    exif[0x010E] = mark  # ImageDescription
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    data = encoded(noise, "PNG", exif=exif)
    assert mark.encode() in data
    assert len(data) > 2 * 2**20  # larger than what upload parsers keep in memory by default
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = {"TMPDIR": str(disk), "GLOW_BUNDLE": str(bundle_path)}
    if store == "redis":
        environment["GLOW_REDIS_URL"] = request.getfixturevalue("redis_url")
    written = set()
    with serving(tmp_path / "log", **environment) as url:
        with httpx2.Client(base_url=f"{url}/api/v1/", timeout=60) as client:
            files = {"image": (f"{mark}.png", data)}
            sent = client.post("encode", files=files, data={"align": "none"}).json()
            latent_id = sent["latent_id"]
            written |= open_files(url)
            answers = [client.post("decode", json={"latent_id": latent_id}).content]
            for kind in ("image/png", "image/webp", "image/jpeg"):
                request_body = {
                    "latent_id": latent_id,
                    "attributes": {"smiling": 0.5},
                    "output": "photo",
                }
                answer = client.post("edit", json=request_body, headers={"accept": kind})
                answers.append(answer.content)
            sweep = {"latent_id": latent_id, "attribute": "older", "steps": 3}
            mix = {"latent_a": latent_id, "latent_b": latent_id, "t": 0.5}
            answers += [
                client.post("sweep", json=sweep).content,
                client.post("mix", json=mix).content,
                client.get(f"latents/{latent_id}", headers={"accept": "image/webp"}).content,
            ]
            examples = [(kind, files["image"]) for kind in ("positive[]", "negative[]")] * 3
            faceless = client.post("attributes", data={"name": "mine"}, files=examples)
            assert mark in faceless.json()["detail"]  # to whoever named the file so
            client.post("encode", files={"image": (f"{mark}.png", data[:9000])})
            client.delete(f"latents/{latent_id}")
        for answer in answers:
            assert mark.encode() not in answer
            assert not Image.open(io.BytesIO(answer)).getexif()
    assert not list(disk.rglob("*"))
    assert not written
    log = (tmp_path / "log").read_text()
    assert mark not in log
    assert latent_id not in log


def open_files(url: str) -> set[str]:
    """Regular files that the server on a port holds open for writing, deleted ones too."""
    port = int(url.rsplit(":", 1)[1])
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "environ").read_bytes().split(b"\0")
            if f"PORT={port}".encode() not in arguments:
                continue
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                flags = (process / "fdinfo" / descriptor.name).read_text()
                mode = int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE
                if (
                    target.startswith("/")
                    and not target.startswith("/dev/")
                    and mode != os.O_RDONLY
                ):
                    found.add(target)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return {target for target in found if not target.endswith("/log")}
