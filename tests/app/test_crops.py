"""A model's crops look as the images that it learned from."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app import faces
from app.crops import cut
from app.main import create_app
from app.settings import Settings
from model.bundle import Bundle
from tests.helpers import encoded, pixels_of

QUALITY = 60


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return replace(Bundle.load(bundle_path), crop_jpeg=QUALITY)


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = encoded(pixels, "JPEG", quality=QUALITY, subsampling=0)
    return np.asarray(Image.open(io.BytesIO(file)))


def test_a_crop_goes_through_jpeg_where_the_images_did(
    bundle: Bundle, portrait: np.ndarray
) -> None:
    box = faces.find(portrait)[0].box
    plain = faces.align(portrait, box, bundle.resolution)
    assert (cut(portrait, box, bundle) == through_jpeg(plain)).all()
    assert (cut(portrait, box, bundle) != plain).any()
    assert (cut(portrait, box, replace(bundle, crop_jpeg=None)) == plain).all()


def test_the_service_keeps_its_promises(
    bundle: Bundle, portrait: np.ndarray, tmp_path: Path
) -> None:
    """The crop is the one that the model saw; what is pasted back is what an edit changed of it;
    and a picture of the right size is not touched."""
    bundle.save(tmp_path / "jpeg.safetensors")
    with TestClient(create_app(Settings(bundle=tmp_path / "jpeg.safetensors"))) as client:
        client.base_url = client.base_url.join("/api/v1/")

        def encode(photo: np.ndarray, align: str) -> tuple[str, dict[str, float]]:
            files = {"image": encoded(photo)}
            sent = client.post("encode", files=files, data={"align": align}).json()
            return sent["latent_id"], sent["face"]["box"]

        def edit(latent_id: str, output: str, strength: float) -> np.ndarray:
            strengths = {"smiling": strength}
            wanted = {"latent_id": latent_id, "attributes": strengths, "output": output}
            return pixels_of(client.post("edit", json=wanted).content)

        latent_id, at = encode(portrait, "auto")
        box = faces.find(portrait)[0].box
        assert at["size"] == pytest.approx(box.size)
        crop = cut(portrait, box, bundle)
        assert (edit(latent_id, "crop", 0) == crop).all()
        assert (edit(latent_id, "photo", 0) == portrait).all()
        # so weak a step moves no pixel of the crop, and then none of the photograph
        assert (edit(latent_id, "crop", 1e-9) == crop).all()
        assert (edit(latent_id, "photo", 1e-9) == portrait).all()

        noise = np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8)
        latent_id, _ = encode(noise, "none")
        assert (edit(latent_id, "crop", 0) == noise).all()
