"""Custom attributes: directions from their owner's own photographs, kept for their time to live,
in this process or in Redis."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from cachetools import TTLCache
from numpy.typing import NDArray
from redis.asyncio import Redis

from app.latents import reachable
from model.bundle import Direction


@dataclass(frozen=True)
class Custom:
    """An attribute of one owner, for one model."""

    direction: Direction
    model: str  # the bundle whose latents it moves

    def to_bytes(self) -> bytes:
        tensors = ("vector", "difference")  # which is the vector
        about = {k: v for k, v in vars(self.direction).items() if k not in tensors}
        header = json.dumps({"model": self.model, "direction": about}).encode()
        return header + b"\n" + self.vector.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Custom":
        header, _, values = data.partition(b"\n")
        known = json.loads(header)
        vector = torch.from_numpy(np.frombuffer(values, "<f4").astype(np.float32))
        return cls(Direction(**known["direction"], vector=vector), known["model"])

    @property
    def vector(self) -> NDArray[np.float32]:
        return self.direction.vector.numpy()

    def reading(self, latent: NDArray[np.float64]) -> float:
        """Where a flat latent lies on its slider."""
        return round(self.direction.reading(torch.from_numpy(latent)), 3)


class AttributeStore(Protocol):
    """Every call raises Problem 503 if the store cannot be reached."""

    async def put(self, owner: str, custom: Custom) -> None:
        """Keep an attribute for its time to live, in place of one of the same name."""

    async def get(self, owner: str, name: str) -> Custom | None: ...

    async def all(self, owner: str) -> list[Custom]:
        """Those of one owner, the oldest first."""

    async def delete(self, owner: str, name: str) -> bool:
        """Forget one; whether there was one."""


class MemoryAttributes:
    """Attributes in this process, at most `max_bytes` of them; the least used go first."""

    def __init__(self, time_to_live: int, max_bytes: int) -> None:
        self._time_to_live = time_to_live
        self._kept: TTLCache[tuple[str, str], Custom] = TTLCache(
            max_bytes, time_to_live, getsizeof=lambda custom: custom.vector.nbytes
        )

    @property
    def held(self) -> int:
        """Bytes of directions."""
        return int(self._kept.currsize)

    async def put(self, owner: str, custom: Custom) -> None:
        self._kept[owner, custom.direction.name] = custom
        # the cache drops what has expired only when it is touched
        asyncio.get_running_loop().call_later(self._time_to_live, self._kept.expire)

    async def get(self, owner: str, name: str) -> Custom | None:
        return self._kept.get((owner, name))

    async def all(self, owner: str) -> list[Custom]:
        return [self._kept[key] for key in list(self._kept) if key[0] == owner]

    async def delete(self, owner: str, name: str) -> bool:
        return self._kept.pop((owner, name), None) is not None


class RedisAttributes:
    """Each attribute a Redis string with an expiry, and beside them, for each owner, a sorted set
    of their names by when they expire."""

    def __init__(self, redis: Redis, time_to_live: int) -> None:
        self._redis: Any = redis  # its types fit text and bytes, this one gives bytes
        self._time_to_live = time_to_live

    async def put(self, owner: str, custom: Custom) -> None:
        name = custom.direction.name
        with reachable():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(self._key(owner, name), custom.to_bytes(), ex=self._time_to_live)
                pipe.zadd(self._key(owner), {name: time.time() + self._time_to_live})
                pipe.expire(self._key(owner), self._time_to_live)
                await pipe.execute()

    async def get(self, owner: str, name: str) -> Custom | None:
        with reachable():
            data = await self._redis.get(self._key(owner, name))
        return Custom.from_bytes(data) if data else None

    async def all(self, owner: str) -> list[Custom]:
        with reachable():
            await self._redis.zremrangebyscore(self._key(owner), 0, time.time())
            names = await self._redis.zrange(self._key(owner), 0, -1)
            keys = [self._key(owner, name.decode()) for name in names]
            values = await self._redis.mget(keys) if keys else []
        return [Custom.from_bytes(data) for data in values if data]

    async def delete(self, owner: str, name: str) -> bool:
        with reachable():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(self._key(owner, name))
                pipe.zrem(self._key(owner), name)
                deleted, _ = await pipe.execute()
        return bool(deleted)

    @staticmethod
    def _key(owner: str, name: str = "") -> str:
        return f"glow:attributes:{owner}:{name}"
