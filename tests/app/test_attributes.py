"""Attributes of one's own, on both stores."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import redis
import torch
from fastapi.testclient import TestClient
from redis.asyncio import Redis

from app.attributes import AttributeStore, Custom, MemoryAttributes, RedisAttributes
from app.limits import visitor_of
from app.main import create_app
from app.settings import Settings
from model.bundle import Bundle, Direction
from tests.app.test_api import assert_problem, upload
from tests.helpers import encoded, pixels_of

KEYS = [f"key-number-{i}-of-16-letters" for i in range(2)]


def variants(portrait: np.ndarray, count: int, gain: float) -> list[np.ndarray]:
    """Photographs of one face, a little apart, darker or lighter."""
    photos = []
    for i in range(count):
        turn = cv2.getRotationMatrix2D((256, 200), 3.0 * i - 3, 1)
        turned = cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
        photos.append((turned * gain).clip(0, 255).astype(np.uint8)[20:200, 130:320])
    return photos


@pytest.fixture
def lighter(portrait: np.ndarray) -> dict[str, list[np.ndarray]]:
    return {"positive[]": variants(portrait, 3, 1.0), "negative[]": variants(portrait, 3, 0.6)}


def create(
    client: TestClient, examples: dict[str, list[np.ndarray]], name: str = "lighter", **more: Any
) -> Any:
    files = [
        (kind, (f"{kind[:3]}{i}.png", encoded(photo)))
        for kind, photos in examples.items()
        for i, photo in enumerate(photos)
    ]
    return client.post("attributes", data={"name": name}, files=files, **more)


def names(client: TestClient, **more: Any) -> list[str]:
    return [entry["name"] for entry in client.get("attributes", **more).json()]


def test_an_attribute_from_examples_is_used_like_a_built_in_one(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    response = create(client, lighter)
    assert response.status_code == 201, response.text
    body = response.json()
    assert (body["name"], body["label"], body["kind"]) == ("lighter", "Lighter", "custom")
    assert body["counts"] == {"positive": 3, "negative": 3}
    assert -1.5 <= body["min"] < 0 < body["max"] <= 1.5
    assert client.get("attributes").json()[-1] == body

    uploads = [upload(client, photos[1], "auto") for photos in lighter.values()]
    bright, dark = (sent["readings"]["lighter"] for sent in uploads)
    assert bright - dark == pytest.approx(1, abs=0.5)

    def brightness(**attributes: float) -> float:
        latent_id = uploads[1]["latent_id"]
        response = client.post("edit", json={"latent_id": latent_id, "attributes": attributes})
        assert response.status_code == 200, response.text
        return float(pixels_of(response.content).mean())

    most = body["max"]
    assert brightness() < brightness(lighter=most / 2) < brightness(lighter=most)
    assert brightness(lighter=most, older=1) != brightness(lighter=most)
    strip = client.post(
        "sweep", json={"latent_id": uploads[1]["latent_id"], "attribute": "lighter", "steps": 3}
    )
    assert pixels_of(strip.content).shape == (32, 96, 3)
    assert client.post("sample", json={}).json()[0]["readings"].keys() >= {"lighter"}
    past = client.post(
        "edit", json={"latent_id": uploads[1]["latent_id"], "attributes": {"lighter": 2}}
    )
    assert_problem(past, 422, "strength-out-of-range", "lighter")


def test_it_is_deleted_and_built_in_ones_are_not(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    create(client, lighter)
    assert client.delete("attributes/lighter").status_code == 204
    assert "lighter" not in names(client)
    assert_problem(client.delete("attributes/lighter"), 404, "unknown-attribute", "lighter")
    edit = {"latent_id": latent_id, "attributes": {"lighter": 0.1}}
    assert_problem(client.post("edit", json=edit), 422, "unknown-attribute", "lighter", "smiling")
    assert_problem(client.delete("attributes/smiling"), 409, "built-in-attribute", "built into")
    assert "smiling" in names(client)


def test_every_photograph_without_a_face_is_named(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    lighter["positive[]"][1] = grey
    lighter["negative[]"].append(grey)
    lighter["negative[]"].append(grey[:4, :4])
    response = create(client, lighter)
    assert_problem(
        response,
        422,
        "unusable-examples",
        "positive 2 (pos1.png): No face",
        "negative 4 (neg3.png): No face",
        "negative 5 (neg4.png): The photograph has 4x4 pixels",
    )
    assert [fault["where"] for fault in response.json()["errors"]] == [
        "positive 2 (pos1.png)",
        "negative 4 (neg3.png)",
        "negative 5 (neg4.png)",
    ]
    assert "set-cookie" not in response.headers
    assert "lighter" not in names(client)


def test_three_of_each_are_needed(client: TestClient, lighter: dict[str, list[np.ndarray]]) -> None:
    few = {**lighter, "negative[]": lighter["negative[]"][:2]}
    assert_problem(create(client, few), 422, "invalid-request", "negative[]", "at least 3")
    none = {"positive[]": lighter["positive[]"]}
    assert_problem(create(client, none), 422, "invalid-request", "negative[]", "required")


@pytest.mark.parametrize("name", ["", "two words", "../x", "a" * 41, "-x"])
def test_a_bad_name_is_refused(
    client: TestClient, lighter: dict[str, list[np.ndarray]], name: str
) -> None:
    assert_problem(create(client, lighter, name), 422, "invalid-request", "name")


def test_a_name_is_taken_once(client: TestClient, lighter: dict[str, list[np.ndarray]]) -> None:
    assert_problem(create(client, lighter, "smiling"), 409, "attribute-exists", "smiling")
    assert create(client, lighter).status_code == 201
    assert_problem(create(client, lighter), 409, "attribute-exists", "lighter")


def test_there_are_sixteen_at_most(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    token = "a-browser"
    client.cookies.set("glow-visitor", token)
    assert client.portal
    parts = client.app.state.parts  # type: ignore[attr-defined]
    for i in range(16):
        made = replace(custom(f"custom-{i}"), model=parts.engine.bundle.identity)
        client.portal.call(parts.attributes.put, visitor_of(token), made)
    assert len(names(client)) == 3 + 16
    assert_problem(create(client, lighter), 409, "too-many-attributes", "16", "delete one")


def test_without_keys_they_are_the_browsers_that_made_them(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    response = create(client, lighter)
    cookie = response.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=strict", "max-age=3600", "path=/"):
        assert word in cookie
    assert "lighter" in names(client)
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]
    client.cookies.clear()  # another browser
    assert "lighter" not in names(client)
    assert_problem(client.delete("attributes/lighter"), 404, "unknown-attribute")
    edit = {"latent_id": latent_id, "attributes": {"lighter": 0.1}}
    assert_problem(client.post("edit", json=edit), 422, "unknown-attribute")


def test_with_keys_they_are_the_keys(
    settings: Settings, lighter: dict[str, list[np.ndarray]]
) -> None:
    keyed = Settings(**{**dict(settings), "api_keys": KEYS})
    first, second = ({"X-API-Key": key} for key in KEYS)
    with TestClient(create_app(keyed), base_url="http://testserver/api/v1/") as client:
        response = create(client, lighter, headers=first)
        assert response.status_code == 201
        assert "set-cookie" not in response.headers
        assert "lighter" in names(client, headers=first)
        assert "lighter" not in names(client, headers=second)
        assert client.delete("attributes/lighter", headers=second).status_code == 404
        assert client.delete("attributes/lighter", headers=first).status_code == 204


def test_the_same_name_anew_is_another_picture(
    client: TestClient, lighter: dict[str, list[np.ndarray]]
) -> None:
    latent_id = client.post("sample", json={}).json()[0]["latent_id"]

    def tag() -> str:
        edit = {"latent_id": latent_id, "attributes": {"lighter": 0.2}}
        return str(client.post("edit", json=edit).headers["etag"])

    create(client, lighter)
    first = tag()
    client.delete("attributes/lighter")
    create(client, {"positive[]": lighter["negative[]"], "negative[]": lighter["positive[]"]})
    assert tag() != first


StoreOf = Callable[[int], AttributeStore]  # by time to live


@pytest.fixture(params=["memory", "redis"])
def store_of(request: pytest.FixtureRequest) -> StoreOf:
    if request.param == "memory":
        return lambda time_to_live: MemoryAttributes(time_to_live, 1_000_000)
    url = request.getfixturevalue("redis_url")
    return lambda time_to_live: RedisAttributes(Redis.from_url(url), time_to_live)


def custom(name: str = "mine") -> Custom:
    vector = torch.randn(48)
    return Custom(Direction(name, "Mine", "Your own", vector, 3, 4, 0.1, 0.5, -1, 0.75), "small")


def test_an_attribute_is_kept_whole(store_of: StoreOf) -> None:
    async def run() -> None:
        store, owner = store_of(60), f"owner-{time.time()}"
        first, second = custom("first"), custom("second")
        await store.put(owner, first)
        await store.put(owner, second)
        kept = await store.get(owner, "first")
        assert kept is not None
        assert (kept.vector == first.vector).all()
        assert kept.model == "small"
        assert (kept.direction.label, kept.direction.max) == ("Mine", 0.75)
        assert [c.direction.name for c in await store.all(owner)] == ["first", "second"]
        assert await store.get("another", "first") is None
        assert await store.all("another") == []
        assert not await store.delete("another", "first")
        assert await store.delete(owner, "first")
        assert [c.direction.name for c in await store.all(owner)] == ["second"]

    asyncio.run(run())


def test_an_expired_attribute_is_gone(store_of: StoreOf) -> None:
    async def run() -> None:
        store, owner = store_of(1), f"owner-{time.time()}"
        await store.put(owner, custom())

        async def ask_until_gone() -> None:
            while await store.get(owner, "mine") or await store.all(owner):
                await asyncio.sleep(0.05)

        await asyncio.wait_for(ask_until_gone(), timeout=10)

    asyncio.run(run())


def test_memory_forgets_attributes_that_nobody_asks_for() -> None:
    async def run() -> None:
        store = MemoryAttributes(1, 1_000_000)
        await store.put("owner", custom())
        deadline = time.monotonic() + 10
        while store.held and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert not store.held

    asyncio.run(run())


def test_memory_of_attributes_is_bounded() -> None:
    async def run() -> None:
        store = MemoryAttributes(60, 48 * 4 * 3)
        for i in range(10):
            await store.put(f"owner-{i}", custom())
        assert store.held == 48 * 4 * 3
        assert await store.get("owner-9", "mine")
        assert await store.get("owner-0", "mine") is None

    asyncio.run(run())


def test_redis_keeps_no_attribute_without_an_end_nor_any_secret(
    bundle_path: Path, redis_url: str, lighter: dict[str, list[np.ndarray]]
) -> None:
    with redis.Redis.from_url(redis_url) as kept:
        kept.flushdb()
        settings = Settings(bundle=bundle_path, redis_url=redis_url)
        with TestClient(create_app(settings), base_url="http://testserver/api/v1/") as client:
            create(client, lighter)
            token = client.cookies["glow-visitor"]
        keys = list(kept.scan_iter())
        assert len(keys) == 2
        assert all(kept.ttl(key) > 0 for key in keys)
        assert not any(token.encode() in key for key in keys)


def test_attributes_of_another_model_are_not_offered(
    bundle_path: Path, redis_url: str, tmp_path: Path, lighter: dict[str, list[np.ndarray]]
) -> None:
    other = Bundle.load(bundle_path)
    other.name = "other"
    other.save(tmp_path / "other.safetensors")
    cookies = {}
    for path, offered in ((bundle_path, True), (tmp_path / "other.safetensors", False)):
        settings = Settings(bundle=path, redis_url=redis_url)
        with TestClient(
            create_app(settings), base_url="http://testserver/api/v1/", cookies=cookies
        ) as client:
            if offered:
                create(client, lighter)
                cookies = dict(client.cookies)
            assert ("lighter" in names(client)) == offered
