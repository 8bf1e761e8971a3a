"""The service serves NICE and RealNVP as it serves Glow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from app.settings import Settings
from model.bundle import Bundle, Direction
from model.config import PRESETS
from tests.helpers import encoded, pixels_of, small_flow

FAMILIES = {
    "realnvp": replace(
        PRESETS["realnvp32"],
        steps=(1, 1, 1),
        hidden=(8, 8, 8),
        checkerboard=(2, 2, 2),
        depth=2,
    ),
    "nice": replace(PRESETS["nice32"], hidden=(32,)),
}


@pytest.fixture(params=FAMILIES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    config = FAMILIES[request.param]
    vector = torch.randn(config.dimensions, generator=torch.Generator().manual_seed(1)) * 0.1
    smiling = Direction("smiling", "Smile", "Expression", vector, 20, 30, 0.1, 0.5, -1, 1)
    path = tmp_path / f"{request.param}.safetensors"
    Bundle(request.param, small_flow(config=config), [smiling]).save(path)
    return Settings(bundle=path)


@pytest.fixture
def crop() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (32, 32, 3), np.uint8) * np.uint8(255)


@pytest.fixture
def latent_id(client: TestClient, crop: np.ndarray) -> str:
    response = client.post("encode", files={"image": encoded(crop)}, data={"align": "none"})
    assert response.status_code == 201, response.text
    assert response.json()["bits_per_dim"] > 0
    return str(response.json()["latent_id"])


def test_decode_of_encode_is_the_picture(
    client: TestClient, latent_id: str, crop: np.ndarray
) -> None:
    decoded = client.post("decode", json={"latent_id": latent_id})
    assert (pixels_of(decoded.content) == crop).all()


def test_an_edit_of_strength_zero_is_the_picture_and_of_one_is_not(
    client: TestClient, latent_id: str, crop: np.ndarray
) -> None:
    for strength in (0, 1):
        for output in ("crop", "photo"):
            edited = client.post(
                "edit",
                json={
                    "latent_id": latent_id,
                    "attributes": {"smiling": strength},
                    "output": output,
                },
            )
            assert edited.status_code == 200, edited.text
            assert (pixels_of(edited.content) == crop).all() == (strength == 0)


def test_a_latent_tells_its_parts(client: TestClient, latent_id: str) -> None:
    shapes = client.get(f"latents/{latent_id}").json()["shapes"]
    assert sum(int(np.prod(shape)) for shape in shapes) == 3 * 32 * 32


def test_samples_repeat_with_their_seed(client: TestClient) -> None:
    def pictures(temperature: float, seed: int) -> list[bytes]:
        request = {"count": 2, "temperature": temperature, "seed": seed}
        ids = [sample["latent_id"] for sample in client.post("sample", json=request).json()]
        return [client.post("decode", json={"latent_id": one}).content for one in ids]

    first = pictures(0.7, seed=3)
    assert first[0] != first[1]
    assert pictures(0.7, seed=3) == first
    assert pictures(0.7, seed=4) != first
    assert len(set(pictures(0.0, seed=3))) == 1
