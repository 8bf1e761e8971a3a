"""Sweeps, mixes, and pictures that a client has already."""

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.app.test_api import assert_problem
from tests.helpers import encoded, pixels_of


@pytest.fixture
def ids(client: TestClient) -> list[str]:
    """Two generated faces."""
    sampled = client.post("sample", json={"count": 2, "temperature": 0.4, "seed": 3}).json()
    return [entry["latent_id"] for entry in sampled]


def picture(client: TestClient, call: str, **request: Any) -> np.ndarray:
    response = client.post(call, json=request)
    assert response.status_code == 200, response.text
    return pixels_of(response.content)


def columns(strip: np.ndarray) -> list[np.ndarray]:
    return np.split(strip, strip.shape[1] // strip.shape[0], axis=1)


def test_a_sweep_is_a_strip_of_edits(client: TestClient, ids: list[str]) -> None:
    strip = picture(
        client, "sweep", latent_id=ids[0], attribute="older", start=-0.5, stop=0.5, steps=3
    )
    assert strip.shape == (32, 96, 3)
    for crop, strength in zip(columns(strip), (-0.5, 0, 0.5), strict=True):
        edited = picture(client, "edit", latent_id=ids[0], attributes={"older": strength})
        assert (crop == edited).all()


def test_a_sweep_goes_all_the_way_unless_told(client: TestClient, ids: list[str]) -> None:
    whole = columns(picture(client, "sweep", latent_id=ids[0], attribute="older"))
    assert len(whole) == 7
    for crop, strength in ((whole[0], -1), (whole[-1], 1)):
        edited = picture(client, "edit", latent_id=ids[0], attributes={"older": strength})
        assert (crop == edited).all()
    back = picture(client, "sweep", latent_id=ids[0], attribute="older", start=1, stop=-1)
    assert all((a == b).all() for a, b in zip(columns(back), whole[::-1], strict=True))


@pytest.mark.parametrize(
    ("request_", "kind", "word"),
    [
        ({"attribute": "smirk"}, "unknown-attribute", "smirk"),
        ({"attribute": "older", "stop": 3}, "strength-out-of-range", "older"),
        ({"attribute": "older", "steps": 1}, "invalid-request", "steps"),
        ({"attribute": "older", "steps": 25}, "invalid-request", "steps"),
        ({"attribute": "older", "start": "NaN"}, "invalid-request", "start"),
    ],
)
def test_a_sweep_is_refused_in_words(
    client: TestClient, ids: list[str], request_: dict[str, Any], kind: str, word: str
) -> None:
    response = client.post("sweep", json={"latent_id": ids[0], **request_})
    assert_problem(response, 422, kind, word)


def test_a_mix_goes_from_one_face_to_the_other(client: TestClient, ids: list[str]) -> None:
    a, b = (picture(client, "decode", latent_id=latent_id) for latent_id in ids)
    strip = columns(picture(client, "mix", latent_a=ids[0], latent_b=ids[1], steps=5))
    assert (strip[0] == a).all()
    assert (strip[-1] == b).all()
    away = [np.abs(crop.astype(int) - a).mean() for crop in strip]
    assert away == sorted(away)
    half = picture(client, "mix", latent_a=ids[0], latent_b=ids[1], t=0.5)
    assert (half == strip[2]).all()


@pytest.mark.parametrize("request_", [{}, {"t": 0.5, "steps": 3}, {"t": 1.1}, {"t": "NaN"}])
def test_a_mix_is_refused_in_words(
    client: TestClient, ids: list[str], request_: dict[str, Any]
) -> None:
    response = client.post("mix", json={"latent_a": ids[0], "latent_b": ids[1], **request_})
    assert_problem(response, 422, "invalid-request", "t" if request_ else "either")


def test_both_faces_of_a_mix_must_be_there(client: TestClient, ids: list[str]) -> None:
    gone = "A" * 22
    for a, b in ((gone, ids[0]), (ids[0], gone)):
        response = client.post("mix", json={"latent_a": a, "latent_b": b, "t": 0.5})
        assert_problem(response, 404, "unknown-latent")


def requests_of(a: str, b: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("decode", {"latent_id": a}),
        ("edit", {"latent_id": a, "attributes": {"older": 0.5}}),
        ("sweep", {"latent_id": a, "attribute": "older", "steps": 2}),
        ("mix", {"latent_a": a, "latent_b": b, "t": 0.5}),
    ]


def test_the_same_request_gives_the_same_tag_and_bytes(client: TestClient, ids: list[str]) -> None:
    tags = set()
    for call, request in requests_of(*ids):
        first, second = (client.post(call, json=request) for _ in range(2))
        assert first.content == second.content
        assert first.headers["etag"] == second.headers["etag"]
        tags.add(first.headers["etag"])
    assert len(tags) == 4


def test_another_picture_has_another_tag(client: TestClient, ids: list[str]) -> None:
    def tag(accept: str = "image/png", **changes: Any) -> str:
        request = {"latent_id": ids[0], "attributes": {"older": 0.5}, **changes}
        return str(client.post("edit", json=request, headers={"accept": accept}).headers["etag"])

    different = [
        tag(),
        tag("image/webp"),
        tag(latent_id=ids[1]),
        tag(attributes={"older": 0.25}),
        tag(attributes={"smiling": 0.5}),
        tag(output="photo"),
    ]
    assert len(set(different)) == len(different)
    assert tag(attributes={"older": 0.5, "smiling": 0}) == tag()


def test_a_picture_that_the_client_has_is_not_sent_again(
    client: TestClient, ids: list[str]
) -> None:
    for call, request in requests_of(*ids):
        tag = client.post(call, json=request).headers["etag"]
        for known in (tag, f'"another", {tag}', "*"):
            response = client.post(call, json=request, headers={"if-none-match": known})
            assert_problem(response, 412, "unchanged", "If-None-Match")
            assert response.headers["etag"] == tag
        assert client.post(call, json=request, headers={"if-none-match": '"x"'}).is_success


@pytest.mark.parametrize("accept", ["image/png", "image/webp", "application/x-npy"])
def test_what_can_be_got_is_answered_304(client: TestClient, ids: list[str], accept: str) -> None:
    address = f"latents/{ids[0]}"
    first = client.get(address, headers={"accept": accept})
    assert first.headers["content-type"] == accept
    again = client.get(address, headers={"accept": accept, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["vary"] == "Accept"
    client.delete(address)
    gone = client.get(address, headers={"accept": accept, "if-none-match": first.headers["etag"]})
    assert_problem(gone, 404, "unknown-latent")


def test_the_picture_of_a_latent_is_that_of_decode(client: TestClient, ids: list[str]) -> None:
    got = client.get(f"latents/{ids[0]}", headers={"accept": "image/png"})
    decoded = client.post("decode", json={"latent_id": ids[0]})
    assert got.content == decoded.content
    assert got.headers["etag"] == decoded.headers["etag"]
    refused = client.get(f"latents/{ids[0]}", headers={"accept": "image/tiff"})
    assert_problem(refused, 406, "not-acceptable")


def test_a_sweep_keeps_what_else_is_set(client: TestClient, ids: list[str]) -> None:
    others = {"attributes": {"smiling": 0.4}, "mix": {"latent_id": ids[1], "t": 0.3}}
    strip = picture(client, "sweep", latent_id=ids[0], attribute="older", steps=2, **others)
    for crop, strength in zip(columns(strip), (-1, 1), strict=True):
        attributes = {"smiling": 0.4, "older": strength}
        edited = picture(client, "edit", latent_id=ids[0], attributes=attributes, mix=others["mix"])
        assert (crop == edited).all()


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animated_sweep_goes_there_and_back(
    client: TestClient, ids: list[str], kind: str
) -> None:
    request = {"latent_id": ids[0], "attribute": "older", "steps": 4, "animated": "photo"}
    response = client.post("sweep", json=request, headers={"accept": f"image/{kind}"})
    assert response.headers["content-type"] == f"image/{kind}"
    image = Image.open(io.BytesIO(response.content))
    assert (image.n_frames, image.size, image.info["loop"]) == (6, (32, 32), 0)
    frames = []
    for index in range(6):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert np.abs(frames[1] - frames[5]).mean() < np.abs(frames[0] - frames[3]).mean()
    assert client.post("sweep", json=request, headers={"accept": "image/png"}).status_code == 406


def test_an_animated_photograph_is_of_modest_size(client: TestClient, portrait: np.ndarray) -> None:
    photo = np.tile(portrait, (2, 2, 1))
    files = {"image": ("two.png", encoded(photo))}
    latent = client.post("encode", files=files, data={"align": "none"}).json()["latent_id"]
    request = {"latent_id": latent, "attribute": "older", "steps": 2, "animated": "photo"}
    response = client.post("sweep", json=request)
    assert response.headers["content-type"] == "image/gif"
    assert Image.open(io.BytesIO(response.content)).size == (640, 640)


def test_an_edit_from_between_two_faces(client: TestClient, ids: list[str]) -> None:
    a, b = ids
    halfway = picture(client, "mix", latent_a=a, latent_b=b, t=0.5)
    mix = {"latent_id": b, "t": 0.5}
    assert (picture(client, "edit", latent_id=a, mix=mix) == halfway).all()
    older = picture(client, "edit", latent_id=a, mix=mix, attributes={"older": 0.5})
    assert (older != halfway).any()
    plain = picture(client, "decode", latent_id=a)
    assert (picture(client, "edit", latent_id=a, mix={**mix, "t": 0}) == plain).all()
    unknown = {"latent_id": "A" * 22, "t": 0.5}
    response = client.post("edit", json={"latent_id": a, "mix": unknown})
    assert_problem(response, 404, "unknown-latent")


def test_a_photograph_takes_a_mix(client: TestClient, ids: list[str], portrait: np.ndarray) -> None:
    files = {"image": ("portrait.png", encoded(portrait))}
    latent = client.post("encode", files=files).json()["latent_id"]
    mix = {"latent_id": ids[0], "t": 0.5}
    mixed = picture(client, "edit", latent_id=latent, mix=mix, output="photo")
    changed = (mixed != portrait).any(axis=2)
    assert 0.01 < changed.mean() < 0.3, "the face alone"
