"""The wire contract, on both stores."""

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.helpers import SMALL, encoded, pixels_of

ATTRIBUTES = ["smiling", "older", "eyeglasses"]


@pytest.fixture
def photo() -> np.ndarray:
    """A picture of no face, larger than a crop."""
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def upload(client: TestClient, photo: np.ndarray, align: str = "none") -> dict[str, Any]:
    response = client.post(
        "encode", files={"image": ("photo.png", encoded(photo))}, data={"align": align}
    )
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def assert_problem(response: Any, status: int, kind: str, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:glow-editor:{kind}"
    assert problem["title"]
    for word in words:
        assert word in problem["detail"]


def npy(latent: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, latent)
    return out.getvalue()


def test_model(client: TestClient) -> None:
    body = client.get("model").json()
    assert body["name"] == "small"
    assert (body["resolution"], body["levels"], body["bits_per_dim"]) == (32, 3, 5.0)
    assert body["parameters"] > 0
    assert body["card"]["licence"] == "none"
    assert body["time_to_live"] == 3600


def test_attributes(client: TestClient) -> None:
    body = client.get("attributes").json()
    assert [attribute["name"] for attribute in body] == ATTRIBUTES
    assert body[0] == {
        "name": "smiling",
        "label": "Smile",
        "group": "Expression",
        "kind": "built-in",
        "min": -1,
        "max": 1,
        "std": 0.5,
        "counts": {"positive": 20, "negative": 30},
    }


def test_encode_finds_and_aligns_the_face(client: TestClient, portrait: np.ndarray) -> None:
    body = upload(client, portrait, "auto")
    assert body["face"]["found"]
    assert 0.5 < body["face"]["confidence"] <= 1
    box = body["face"]["box"]
    assert box["x"] + box["size"] / 2 == pytest.approx(223, abs=12)
    assert box["size"] == pytest.approx(43 / 0.35, rel=0.15)
    assert set(body["readings"]) == set(ATTRIBUTES)
    assert body["bits_per_dim"] > 0
    assert body["expires_in"] == 3600


def test_encode_none_takes_the_middle_square(client: TestClient, photo: np.ndarray) -> None:
    face = upload(client, photo)["face"]
    assert face == {
        "found": False,
        "box": {"x": 10, "y": 0, "size": 60},
        "angle": 0,
        "confidence": 0,
    }


def test_encode_takes_a_box(client: TestClient, photo: np.ndarray) -> None:
    face = upload(client, photo, "5.5,-3,40,-12")["face"]
    assert face["box"] == {"x": 5.5, "y": -3, "size": 40}
    assert face["angle"] == -12


@pytest.mark.parametrize(
    "align", ["middle", "1,2,3", "1,2,0,0", "900,0,40,0", "0,0,9999,0", "nan,0,9,0"]
)
def test_encode_refuses_a_bad_box(client: TestClient, photo: np.ndarray, align: str) -> None:
    response = client.post("encode", files={"image": encoded(photo)}, data={"align": align})
    assert_problem(response, 422, "invalid-align")


def test_encode_says_that_there_is_no_face(client: TestClient) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    response = client.post("encode", files={"image": encoded(grey)})
    assert_problem(response, 422, "no-face", "No face", "align")


def test_encode_refuses_what_is_no_photograph(client: TestClient) -> None:
    response = client.post("encode", files={"image": b"hello"})
    assert_problem(response, 415, "not-a-photograph", "JPEG")
    assert_problem(client.post("encode"), 422, "invalid-request", "image")


def test_a_body_past_the_limit_is_refused(client: TestClient) -> None:
    response = client.post("encode", files={"image": bytes(2_000_001)})
    assert_problem(response, 413, "body-too-large", "2000000 bytes")


def test_a_body_past_the_limit_is_refused_though_it_hides_its_length(client: TestClient) -> None:
    def parts() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(3000):
            yield bytes(1000)

    response = client.post(
        "encode", content=parts(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert_problem(response, 413, "body-too-large", "2000000 bytes")


def test_decode_gives_the_crop_back(client: TestClient) -> None:
    crop = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    response = client.post("decode", json={"latent_id": upload(client, crop)["latent_id"]})
    assert response.headers["content-type"] == "image/png"
    assert (pixels_of(response.content) == crop).all()


def test_a_latent_goes_out_and_in_as_npy(client: TestClient, photo: np.ndarray) -> None:
    latent_id = upload(client, photo)["latent_id"]
    response = client.get(f"latents/{latent_id}", headers={"accept": "application/x-npy"})
    assert response.headers["content-type"] == "application/x-npy"
    latent = np.load(io.BytesIO(response.content))
    assert (latent.shape, latent.dtype) == ((SMALL.dimensions,), np.float32)
    by_body = client.post(
        "decode", content=response.content, headers={"content-type": "application/x-npy"}
    )
    by_id = client.post("decode", json={"latent_id": latent_id})
    assert (pixels_of(by_body.content) == pixels_of(by_id.content)).all()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "npy"),
        (b"hello", "npy"),
        (npy(np.zeros(SMALL.dimensions)), "float64"),
        (npy(np.zeros(5, np.float32)), "(5,)"),
        (npy(np.zeros(SMALL.dimensions, np.float32))[:-4], "truncated"),
        (npy(np.full(SMALL.dimensions, np.nan, np.float32)), "finite"),
        (npy(np.full(SMALL.dimensions, np.inf, np.float32)), "finite"),
        (npy(np.array([None])), "object"),
        (npy(np.zeros(7, np.float32)).replace(b"(7,)", b"(7" + b"0" * 9 + b",)"), ""),
    ],
    ids=["empty", "text", "float64", "short", "truncated", "nan", "inf", "pickle", "enormous"],
)
def test_decode_refuses_a_bad_latent(client: TestClient, body: bytes, word: str) -> None:
    response = client.post("decode", content=body, headers={"content-type": "application/x-npy"})
    assert_problem(response, 422, "invalid-latent", word)


def test_decode_survives_a_latent_of_enormous_numbers(client: TestClient) -> None:
    body = npy(np.full(SMALL.dimensions, 3e38, np.float32))
    response = client.post("decode", content=body, headers={"content-type": "application/x-npy"})
    assert pixels_of(response.content).shape == (32, 32, 3)


def test_decode_refuses_other_bodies(client: TestClient) -> None:
    response = client.post("decode", content=b"x", headers={"content-type": "text/plain"})
    assert_problem(response, 415, "unsupported-body", "application/json", "text/plain")
    response = client.post("decode", content=b"{", headers={"content-type": "application/json"})
    assert_problem(response, 422, "invalid-request")


def test_edit_moves_the_picture_by_the_strength(client: TestClient, photo: np.ndarray) -> None:
    latent_id = upload(client, photo)["latent_id"]

    def edited(**attributes: float) -> np.ndarray:
        response = client.post("edit", json={"latent_id": latent_id, "attributes": attributes})
        assert response.status_code == 200, response.text
        return pixels_of(response.content).astype(int)

    start = edited()
    half, whole = edited(smiling=0.5), edited(smiling=1)
    assert 0 < np.abs(half - start).mean() < np.abs(whole - start).mean()
    assert (edited(smiling=0, older=0) == start).all()
    assert (edited(smiling=1, older=-1) != whole).any()


def test_edit_in_place_changes_the_box_alone(client: TestClient, photo: np.ndarray) -> None:
    latent_id = upload(client, photo, "20,10,32,0")["latent_id"]
    response = client.post(
        "edit", json={"latent_id": latent_id, "attributes": {"older": 1}, "output": "photo"}
    )
    edited = pixels_of(response.content)
    assert edited.shape == photo.shape
    changed = np.argwhere((edited != photo).any(axis=2))
    assert len(changed)
    assert (changed.min(0) >= (10, 20)).all()
    assert (changed.max(0) <= (42, 52)).all()


def test_edit_refuses_an_unknown_attribute(client: TestClient, photo: np.ndarray) -> None:
    latent_id = upload(client, photo)["latent_id"]
    response = client.post("edit", json={"latent_id": latent_id, "attributes": {"smirk": 1}})
    assert_problem(response, 422, "unknown-attribute", "smirk", *ATTRIBUTES)


def test_an_unknown_field_is_named_and_those_that_there_are(client: TestClient) -> None:
    response = client.post("edit", json={"latent_id": "A" * 22, "edits": {"smiling": 1}})
    assert_problem(response, 422, "invalid-request", "edits", "latent_id", "attributes", "output")
    (error,) = response.json()["errors"]
    assert error["where"] == "body"


@pytest.mark.parametrize("strength", ["1.01", "-5", "NaN", "Infinity", '"much"'])
def test_edit_refuses_a_bad_strength(client: TestClient, photo: np.ndarray, strength: str) -> None:
    latent_id = upload(client, photo)["latent_id"]
    response = client.post(
        "edit",
        content=f'{{"latent_id": "{latent_id}", "attributes": {{"smiling": {strength}}}}}',
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 422, response.text
    assert "smiling" in response.json()["detail"]


def test_sample_is_the_same_for_a_seed(client: TestClient) -> None:
    def pictures(**request: Any) -> list[bytes]:
        ids = [entry["latent_id"] for entry in client.post("sample", json=request).json()]
        return [client.post("decode", json={"latent_id": i}).content for i in ids]

    first = pictures(count=3, temperature=0.8, seed=5)
    assert len(set(first)) == 3
    assert pictures(count=3, temperature=0.8, seed=5) == first
    assert pictures(count=3, temperature=0.8, seed=6) != first
    assert len(set(pictures(count=2, temperature=0, seed=1))) == 1


def test_a_generated_face_as_photo_is_its_crop(client: TestClient) -> None:
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    crop, photo = (
        client.post(
            "edit", json={"latent_id": latent_id, "attributes": {"older": 0.5}, "output": output}
        ).content
        for output in ("crop", "photo")
    )
    assert (pixels_of(crop) == pixels_of(photo)).all()


def test_a_latent_describes_itself_and_is_deleted(client: TestClient, photo: np.ndarray) -> None:
    latent_id = upload(client, photo)["latent_id"]
    body = client.get(f"latents/{latent_id}").json()
    assert body["latent_id"] == latent_id
    assert body["shapes"] == [[6, 16, 16], [12, 8, 8], [48, 4, 4]]
    assert body["has_photo"]
    assert 3590 < body["expires_in"] <= 3600
    assert client.delete(f"latents/{latent_id}").status_code == 204
    for response in (
        client.get(f"latents/{latent_id}"),
        client.delete(f"latents/{latent_id}"),
        client.post("decode", json={"latent_id": latent_id}),
        client.post("edit", json={"latent_id": latent_id, "output": "photo"}),
    ):
        assert_problem(response, 404, "unknown-latent", "Upload")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg", "image/jpeg"),
        ("image/avif,image/webp;q=0.9,*/*;q=0.8", "image/webp"),
        ("image/png;q=0.1, image/jpeg", "image/jpeg"),
        ("text/html,application/xml;q=0.9,*/*;q=0.8", "image/png"),
        ("image/png;q=0, image/*;q=0.5", "image/webp"),
    ],
)
def test_the_format_is_as_accepted(client: TestClient, accept: str, kind: str) -> None:
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    response = client.post("decode", json={"latent_id": latent_id}, headers={"accept": accept})
    assert response.headers["content-type"] == kind
    assert f"image/{Image.open(io.BytesIO(response.content)).format}".lower() == kind


def test_no_acceptable_format(client: TestClient) -> None:
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    response = client.post(
        "decode", json={"latent_id": latent_id}, headers={"accept": "image/tiff"}
    )
    assert_problem(response, 406, "not-acceptable", "image/webp")


def test_what_does_not_exist(client: TestClient) -> None:
    assert_problem(client.get("nothing"), 404, "not-found")
    assert_problem(client.get("encode"), 405, "method-not-allowed")


def test_health(client: TestClient) -> None:
    assert client.get("http://testserver/healthz").json() == {"status": "ok"}


def test_the_page_is_at_the_root(client: TestClient) -> None:
    response = client.get("http://testserver/")
    assert response.status_code == 200
    assert "Glow Editor" in response.text
