"""The engine over Ray Serve, as Serve runs it in one process; tests/deploy has a cluster's."""

import asyncio
from typing import Any

import numpy as np
import pytest
from ray import serve
from ray.exceptions import ActorDiedError

from app.cluster import PAUSES, RayEngine
from app.errors import Problem
from model.bundle import Bundle
from tests.helpers import SMALL, small_flow

BUNDLE = Bundle("small", small_flow())
LATENT = np.zeros(SMALL.dimensions)


class Never:
    async def decode(self, _: Any) -> None:
        await asyncio.Event().wait()


class Short:
    """Answers as a batch does for the one of it that is too large."""

    async def decode(self, _: Any) -> MemoryError:
        return MemoryError()


class Broken:
    async def decode(self, _: Any) -> None:
        raise ValueError("a fault")


class Dying:
    def __init__(self, times: int) -> None:
        self.left = times

    async def decode(self, _: Any) -> str:
        if self.left:
            self.left -= 1
            raise ActorDiedError
        return "done"


async def decoded(replica: type, *arguments: Any, deadline: float = 30.0) -> Any:
    application = serve.deployment(replica).bind(*arguments)
    replicas = serve.run(application, name=replica.__name__, _local_testing_mode=True)
    engine = RayEngine(BUNDLE, replicas, deadline)
    try:
        return await engine.decode(LATENT)
    finally:
        assert engine.waiting == 0
        assert engine.healthy


@pytest.mark.parametrize(
    ("replica", "arguments", "deadline", "words"),
    [
        (Never, (), 0.1, "not reached in time"),
        (Short, (), 30, "its memory is taken"),
        (Dying, (len(PAUSES) + 1,), 30, "its devices fail"),
    ],
)
def test_what_cannot_be_done_now_is_to_be_tried_again(
    replica: type, arguments: tuple[int, ...], deadline: float, words: str
) -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(decoded(replica, *arguments, deadline=deadline))
    assert (refused.value.status_code, refused.value.kind) == (503, "busy")
    assert words in refused.value.detail
    assert refused.value.headers == {"Retry-After": "1"}


def test_what_a_replica_dies_of_is_done_by_another() -> None:
    assert asyncio.run(decoded(Dying, len(PAUSES))) == "done"


def test_a_fault_is_a_fault() -> None:
    with pytest.raises(ValueError, match="a fault"):
        asyncio.run(decoded(Broken))
