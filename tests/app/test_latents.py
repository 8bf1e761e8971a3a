"""One interface, the same tests on both stores; Redis is a real server."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
import redis

from app.errors import Problem
from app.faces import Box
from app.latents import LatentStore, MemoryStore, Record, RedisStore

LATENT = np.random.default_rng(0).standard_normal(48)
RECORD = Record(LATENT, "small", Box(1.5, -2.0, 30.0, 5.0), b"photograph", "owner")

StoreOf = Callable[[int], LatentStore]  # by time to live


@pytest.fixture(params=["memory", "redis"])
def store_of(request: pytest.FixtureRequest) -> StoreOf:
    if request.param == "memory":
        return lambda time_to_live: MemoryStore(time_to_live, 1_000_000)
    url = request.getfixturevalue("redis_url")
    return lambda time_to_live: RedisStore(url, time_to_live)


def test_a_record_comes_back_whole(store_of: StoreOf) -> None:
    async def run() -> None:
        store = store_of(60)
        latent_id = await store.put(RECORD)
        record = await store.get(latent_id, photo=True)
        assert (record.latent == LATENT).all()
        assert record.latent.dtype == np.float64
        assert (record.model, record.box, record.photo) == ("small", RECORD.box, b"photograph")
        assert record.owner == "owner"
        assert 55 <= await store.expires_in(latent_id) <= 60
        assert (await store.get(latent_id)).photo is None
        await store.close()

    asyncio.run(run())


def test_a_generated_face_has_no_photograph(store_of: StoreOf) -> None:
    async def run() -> None:
        store = store_of(60)
        record = await store.get(await store.put(Record(LATENT, "small")), photo=True)
        assert (record.box, record.photo) == (None, None)
        await store.close()

    asyncio.run(run())


def test_deleted_is_gone(store_of: StoreOf) -> None:
    async def run() -> None:
        store = store_of(60)
        latent_id = await store.put(RECORD)
        await store.delete(latent_id)
        for call in (store.get(latent_id), store.expires_in(latent_id), store.delete(latent_id)):
            with pytest.raises(Problem) as error:
                await call
            assert error.value.status_code == 404
        await store.close()

    asyncio.run(run())


def test_expired_is_gone(store_of: StoreOf) -> None:
    async def run() -> None:
        store = store_of(1)
        latent_id = await store.put(RECORD)
        await store.get(latent_id)

        async def ask_until_gone() -> None:
            while True:
                await store.get(latent_id)
                await asyncio.sleep(0.05)

        with pytest.raises(Problem) as error:
            await asyncio.wait_for(ask_until_gone(), timeout=10)
        assert error.value.status_code == 404
        await store.close()

    asyncio.run(run())


def test_ids_are_of_128_random_bits(store_of: StoreOf) -> None:
    async def run() -> None:
        store = store_of(60)
        ids = [await store.put(RECORD) for _ in range(50)]  # the same photograph each time
        assert len(set(ids)) == 50
        assert all(len(latent_id) == 22 for latent_id in ids)
        await store.close()

    asyncio.run(run())


def test_memory_forgets_the_expired_untouched() -> None:
    """The time to live holds even if nobody asks again."""

    async def run() -> None:
        store = MemoryStore(1, 1_000_000)
        await store.put(RECORD)
        deadline = time.monotonic() + 10
        while store.held and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert not store.held
        await store.close()

    asyncio.run(run())


def test_memory_is_bounded() -> None:
    async def run() -> None:
        store = MemoryStore(60, 1_000)
        ids = [await store.put(Record(LATENT, "small", photo=bytes(100))) for _ in range(10)]
        assert store.held <= 1_000
        await store.get(ids[-1])
        with pytest.raises(Problem):
            await store.get(ids[0])
        with pytest.raises(Problem) as error:
            await store.put(Record(LATENT, "small", photo=bytes(2_000)))
        assert error.value.status_code == 413
        await store.close()

    asyncio.run(run())


def test_redis_keeps_nothing_without_an_end(redis_url: str) -> None:
    async def run() -> str:
        store = RedisStore(redis_url, 60)
        latent_id = await store.put(RECORD)
        await store.close()
        return latent_id

    latent_id = asyncio.run(run())
    client = redis.Redis.from_url(redis_url)
    assert all(client.ttl(key) > 0 for key in client.scan_iter())
    assert client.exists(f"glow:latent:{latent_id}")
    client.close()


def test_a_redis_that_is_not_there_is_a_503() -> None:
    async def run() -> None:
        store = RedisStore("redis://127.0.0.1:1/0", 60)
        calls = store.get("x"), store.expires_in("x"), store.delete("x"), store.ping()
        for call in (store.put(RECORD), *calls):
            with pytest.raises(Problem) as error:
                await call
            assert error.value.status_code == 503
            assert error.value.headers == {"Retry-After": "1"}
        await store.close()

    asyncio.run(run())
