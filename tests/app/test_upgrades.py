"""Another model in the same place, beside a store that has latents of the one before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from model.bundle import Bundle
from tests.app.test_api import assert_problem, upload
from tests.helpers import pixels_of, small_flow

CROP = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@contextmanager
def serving(bundle: Path, redis_url: str) -> Iterator[TestClient]:
    app = create_app(Settings(bundle=bundle, redis_url=redis_url))
    with TestClient(app, base_url="http://testserver/api/v1/") as client:
        yield client


@pytest.fixture
def before(bundle_path: Path, redis_url: str) -> str:
    """A latent that an earlier server left in Redis."""
    with serving(bundle_path, redis_url) as client:
        latent_id: str = upload(client, CROP)["latent_id"]
    return latent_id


def test_other_weights_under_the_same_name_refuse_it(
    before: str, bundle_path: Path, redis_url: str, tmp_path: Path
) -> None:
    kept = Bundle.load(bundle_path)
    retrained = Bundle(kept.name, small_flow(seed=1), kept.directions)
    retrained.save(tmp_path / "small.safetensors")
    with serving(tmp_path / "small.safetensors", redis_url) as client:
        words = f"belongs to the model {kept.identity}; this server has {retrained.identity}"
        own = client.post("sample", json={}).json()[0]["latent_id"]
        for call, request in {
            "decode": {"latent_id": before},
            "edit": {"latent_id": before, "attributes": {"older": 1}, "output": "photo"},
            "sweep": {"latent_id": before, "attribute": "older"},
            "mix": {"latent_a": own, "latent_b": before, "t": 0.5},
        }.items():
            answer = client.post(call, json=request)
            assert_problem(answer, 409, "latent-of-another-model", words)
        assert_problem(client.get(f"latents/{before}"), 409, "latent-of-another-model", words)
        with client.websocket_connect("/api/v1/live") as live:
            live.send_json({"latent_id": before, "attributes": {}, "seq": 1})
            assert words in live.receive_json()["detail"]
        # and its photograph can still be forgotten
        assert client.delete(f"latents/{before}").status_code == 204


def test_other_directions_of_the_same_flow_go_on_with_it(
    before: str, bundle_path: Path, redis_url: str, tmp_path: Path
) -> None:
    edit = {"latent_id": before, "attributes": {"older": 1}}
    with serving(bundle_path, redis_url) as client:
        first = client.post("edit", json=edit)
    bundle = Bundle.load(bundle_path)
    turned = [replace(d, vector=-d.vector) for d in bundle.directions]
    Bundle(bundle.name, bundle.flow, turned).save(tmp_path / "turned.safetensors")
    with serving(tmp_path / "turned.safetensors", redis_url) as client:
        assert (pixels_of(client.post("decode", json={"latent_id": before}).content) == CROP).all()
        # what the browser has is not what it would get now
        again = client.post("edit", json=edit, headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 200
        assert again.content != first.content
