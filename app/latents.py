"""The latent store: in this process or in Redis, one interface.

What it keeps of one photograph is a record; it is gone when its time to live is over, or when it
is deleted, and it is never written to a disk by us.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, OutOfMemoryError, RedisError

from app.errors import Problem
from app.faces import Box


@dataclass(frozen=True)
class Record:
    """A latent, and the photograph it came from; a generated face has none."""

    latent: NDArray[np.float64]  # flat; float32 would round it, and decoding magnifies rounding
    model: str  # the bundle it belongs to
    box: Box | None = None
    photo: bytes | None = None  # as uploaded
    owner: str = ""  # who alone may open it; "" where the id is all it takes

    @property
    def has_photo(self) -> bool:
        """Known without its bytes: a box is a place in a photograph."""
        return self.box is not None


class LatentStore(Protocol):
    async def put(self, record: Record) -> str:
        """Keep a record for its time to live; its id, of 128 random bits."""

    async def get(self, latent_id: str, *, photo: bool = False) -> Record:
        """The record, with its photograph only if asked.

        Raises Problem 404 if it is unknown, expired or deleted.
        """

    async def expires_in(self, latent_id: str) -> int:
        """A record's remaining seconds. Raises Problem 404 as `get` does."""

    async def delete(self, latent_id: str) -> None:
        """Forget a record. Raises Problem 404 if there is none."""

    async def count(self) -> int:
        """Records alive."""

    async def ping(self) -> None:
        """Raises Problem 503 if the store cannot be reached."""

    async def close(self) -> None: ...


def _new_id() -> str:
    return secrets.token_urlsafe(16)


def unknown() -> Problem:
    return Problem(
        404,
        "unknown-latent",
        "There is no such latent: it has expired, was deleted, or never was. "
        "Upload the photograph again.",
    )


class MemoryStore:
    """Records in this process, at most `max_bytes` of them; the least used go first."""

    def __init__(self, time_to_live: int, max_bytes: int) -> None:
        self._records: TTLCache[str, tuple[Record, float]] = TTLCache(
            max_bytes,
            time_to_live,
            getsizeof=lambda entry: entry[0].latent.nbytes + len(entry[0].photo or b""),
        )
        self._time_to_live = time_to_live
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Bytes of latents and photographs."""
        return int(self._records.currsize)

    async def _sweep(self) -> None:
        while True:  # the cache drops what has expired only when it is touched
            await asyncio.sleep(1)
            self._records.expire()

    async def put(self, record: Record) -> str:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        latent_id = _new_id()
        try:
            self._records[latent_id] = (record, time.monotonic() + self._time_to_live)
        except ValueError as error:  # larger than the whole store
            raise Problem(
                413, "photograph-too-large", "The photograph does not fit this server's memory."
            ) from error
        return latent_id

    async def get(self, latent_id: str, *, photo: bool = False) -> Record:
        record, _ = self._entry(latent_id)
        return record if photo else replace(record, photo=None)

    async def expires_in(self, latent_id: str) -> int:
        _, expires = self._entry(latent_id)
        return max(0, round(expires - time.monotonic()))

    def _entry(self, latent_id: str) -> tuple[Record, float]:
        entry = self._records.get(latent_id)
        if entry is None:
            raise unknown()
        return entry

    async def delete(self, latent_id: str) -> None:
        if self._records.pop(latent_id, None) is None:
            raise unknown()

    async def count(self) -> int:
        return len(self._records)

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        self._records.clear()


class RedisStore:
    """Records as Redis hashes with an expiry, shared by every server that uses the same Redis."""

    TIMEOUT = 2.0  # seconds for one answer of Redis, after which it counts as out of reach

    def __init__(self, url: str, time_to_live: int) -> None:
        self.redis = Redis.from_url(
            url,
            socket_timeout=self.TIMEOUT,
            socket_connect_timeout=self.TIMEOUT,
            # once more where a connection breaks, as all do when Redis restarts; a Redis that is
            # slow would only be slower for being asked twice
            retry=Retry(ConstantBackoff(0.02), 1, supported_errors=(ConnectionError,)),
        )
        self._time_to_live = time_to_live

    async def put(self, record: Record) -> str:
        latent_id = _new_id()
        fields: dict[bytes | bytearray | memoryview[int] | str | int | float, Any] = {
            "latent": record.latent.astype("<f8").tobytes(),
            "about": json.dumps(
                {
                    "model": record.model,
                    "box": record.box and asdict(record.box),
                    "owner": record.owner,
                }
            ).encode(),
        }
        if record.photo is not None:
            fields["photo"] = record.photo
        key = self._key(latent_id)
        with reachable():
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.hset(key, mapping=fields)
                pipe.expire(key, self._time_to_live)
                await pipe.execute()
        return latent_id

    async def get(self, latent_id: str, *, photo: bool = False) -> Record:
        fields = ["latent", "about", *(["photo"] if photo else [])]
        with reachable():
            values: list[Any] = await self.redis.hmget(self._key(latent_id), fields)
        latent, about, *rest = values
        if latent is None or about is None:
            raise unknown()
        known = json.loads(about)
        return Record(
            np.frombuffer(latent, "<f8"),
            known["model"],
            Box(**known["box"]) if known["box"] else None,
            rest[0] if rest else None,
            known["owner"],
        )

    async def expires_in(self, latent_id: str) -> int:
        with reachable():
            seconds = int(await self.redis.ttl(self._key(latent_id)))
        if seconds < 0:
            raise unknown()
        return seconds

    async def delete(self, latent_id: str) -> None:
        with reachable():
            removed = await self.redis.delete(self._key(latent_id))
        if not removed:
            raise unknown()

    async def count(self) -> int:
        with reachable():
            return len([key async for key in self.redis.scan_iter(self._key("*"), count=1000)])

    async def ping(self) -> None:
        with reachable():
            await self.redis.ping()

    async def close(self) -> None:
        await self.redis.aclose()

    @staticmethod
    def _key(latent_id: str) -> str:
        return f"glow:latent:{latent_id}"


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a Redis that is gone, slow or full into Problem 503."""
    try:
        yield
    except OutOfMemoryError as error:  # at its bound, with nothing that it may evict
        raise Problem(
            503,
            "store-full",
            "The store of latents is full; try again when others have expired.",
            {"Retry-After": "30"},
        ) from error
    except (RedisError, OSError) as error:
        raise Problem(
            503,
            "store-unavailable",
            "The store of latents cannot be reached; try again in a moment.",
            {"Retry-After": "1"},
        ) from error
