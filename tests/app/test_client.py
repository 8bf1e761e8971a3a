"""The Python client against the real server."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from app.client import GlowEditor, GlowError
from tests.app.test_attributes import variants
from tests.helpers import ROOT, SIDE, encoded, free_port, pixels_of, serving

KEYS = [f"key-number-{i}-of-16-letters" for i in range(2)]


@pytest.fixture
def glow(server_url: str) -> Iterator[GlowEditor]:
    with GlowEditor(server_url) as glow:
        yield glow


@pytest.fixture
def photograph(portrait: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "portrait.png"
    path.write_bytes(encoded(portrait))
    return path


def test_it_knows_the_model(glow: GlowEditor) -> None:
    assert glow.model()["resolution"] == SIDE
    smiling = next(entry for entry in glow.attributes() if entry["name"] == "smiling")
    assert smiling["min"] < 0 < smiling["max"]


def test_a_photograph_from_a_path_to_its_end(
    glow: GlowEditor, photograph: Path, portrait: np.ndarray
) -> None:
    face = glow.encode(photograph)
    latent_id = face["latent_id"]
    assert face["face"]["found"]
    assert glow.describe(latent_id)["has_photo"]
    same = glow.edit(latent_id, {}, output="photo")
    assert (pixels_of(same) == portrait).all()
    smiling = pixels_of(glow.edit(latent_id, {"smiling": 0.7}, output="photo"))
    assert smiling.shape == portrait.shape
    assert (smiling != portrait).any()
    glow.delete(latent_id)
    with pytest.raises(GlowError, match="Upload the photograph again") as refused:
        glow.decode(latent_id)
    assert (refused.value.status, refused.value.kind) == (404, "unknown-latent")
    assert refused.value.retry_after is None


def test_the_readmes_example(server_url: str, portrait: np.ndarray, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("### The client in Python")[1]
    example = section.split("```python")[1].split("```")[0]
    assert "http://127.0.0.1:8000" in example
    (tmp_path / "portrait.jpg").write_bytes(encoded(portrait, "JPEG"))
    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8000", server_url)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("404 unknown-latent There is no such latent: ")
    assert Image.open(tmp_path / "smiling.webp").size == (512, 512)


def test_a_box_and_bytes(glow: GlowEditor, portrait: np.ndarray) -> None:
    face = glow.encode(encoded(portrait), align="150,50,200,0")["face"]
    assert face["box"] == {"x": 150, "y": 50, "size": 200}


def test_a_latent_there_and_back(glow: GlowEditor, photograph: Path) -> None:
    latent_id = glow.encode(photograph)["latent_id"]
    latent = glow.latent(latent_id)
    assert (latent.dtype, latent.shape) == (np.float32, (3 * SIDE**2,))
    ours, theirs = pixels_of(glow.decode(latent)), pixels_of(glow.decode(latent_id))
    apart = np.abs(ours.astype(int) - theirs)  # float32 rounds, and bfloat16 networks take it on
    assert apart.max() <= 4
    assert (apart > 1).mean() < 0.001


def test_samples_sweeps_and_mixes_in_every_format(glow: GlowEditor) -> None:
    a, b = (entry["latent_id"] for entry in glow.sample(2, temperature=0.6, seed=3))
    assert pixels_of(glow.sweep(a, "older", steps=3)).shape == (SIDE, 3 * SIDE, 3)
    still = pixels_of(glow.sweep(a, "older", start=0, stop=0, steps=2))
    assert (still[:, :SIDE] == still[:, SIDE:]).all()
    assert pixels_of(glow.mix(a, b, steps=4)).shape == (SIDE, 4 * SIDE, 3)
    assert (pixels_of(glow.mix(a, b, t=1.0)) == pixels_of(glow.decode(b))).all()
    for format in ("png", "webp", "jpeg"):
        picture = Image.open(io.BytesIO(glow.decode(a, format=format)))
        assert picture.format == format.upper()


def test_an_attribute_of_ones_own_also_live(glow: GlowEditor, portrait: np.ndarray) -> None:
    examples = [[encoded(p) for p in variants(portrait, 3, gain)] for gain in (1.0, 0.6)]
    made = glow.add_attribute("lighter", *examples)
    assert made["kind"] == "custom"
    latent_id = glow.encode(examples[1][0])["latent_id"]
    strength = {"lighter": made["max"] / 2}
    edited = glow.edit(latent_id, strength)
    assert pixels_of(edited).mean() > pixels_of(glow.decode(latent_id)).mean()
    with glow.live("png") as live:
        number = live.send(latent_id, strength)
        assert live.receive() == (number, edited)
    glow.delete_attribute("lighter")
    with pytest.raises(GlowError, match="lighter"):
        glow.edit(latent_id, strength)


def test_live_edits_end_with_the_newest(glow: GlowEditor) -> None:
    latent_id = glow.sample()[0]["latent_id"]
    with glow.live("png") as live:
        last = [live.send(latent_id, {"older": i / 30}) for i in range(30)][-1]
        number, picture = live.receive()
        while number != last:
            number, picture = live.receive()
        assert picture == glow.edit(latent_id, {"older": 29 / 30})
        live.send(latent_id, {"older": 99})
        with pytest.raises(GlowError, match="must lie from") as refused:
            live.receive()
        assert refused.value.kind == "strength-out-of-range"
        again = live.send(latent_id, {})
        assert live.receive()[0] == again


def test_threads_share_one_client(glow: GlowEditor) -> None:
    latent_id = glow.sample()[0]["latent_id"]
    with ThreadPoolExecutor(8) as pool:
        pictures = [pixels_of(p) for p in pool.map(lambda _: glow.decode(latent_id), range(16))]
    # the last bit of float32 hangs on the size of the batch
    assert all(np.abs(p.astype(int) - pictures[0]).max() <= 1 for p in pictures)


def test_keys_and_rates(tmp_path: Path, bundle_path: Path) -> None:
    environment = {"GLOW_API_KEYS": ",".join(KEYS), "GLOW_RATE_LIMIT": "8/minute"}
    with serving(tmp_path / "log", GLOW_BUNDLE=str(bundle_path), **environment) as url:
        with GlowEditor(url) as stranger, pytest.raises(GlowError) as refused:
            stranger.model()
        assert refused.value.status == 401
        with GlowEditor(f"{url}/", KEYS[0]) as ours, GlowEditor(url, KEYS[1]) as theirs:
            latent_id = ours.sample()[0]["latent_id"]
            with ours.live() as live:
                live.send(latent_id, {})
                live.receive()
            with pytest.raises(GlowError) as refused:
                theirs.describe(latent_id)
            assert refused.value.kind == "unknown-latent"
            with pytest.raises(GlowError, match="Too many requests") as refused:
                list(map(GlowEditor.model, [ours] * 9))
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 60


def test_a_server_that_is_not_there() -> None:
    with (
        GlowEditor(f"http://127.0.0.1:{free_port()}") as glow,
        pytest.raises(httpx2.TransportError),
    ):
        glow.model()
