"""What all tests share: a small bundle, a real Redis, and the real server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from model.bundle import Bundle, Direction
from tests.helpers import SMALL, free_port, redis_server, serving, small_flow


class Scheduling(LoadFileScheduling):
    """Each file in one process, and those that share the image and the network in the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/deploy" if file.startswith("tests/deploy/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


torch.set_num_threads(1)  # small tensors gain nothing from more, and waiting threads spin


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with three directions of no meaning."""
    torch.manual_seed(1)
    directions = [
        Direction(name, label, group, torch.randn(SMALL.dimensions) * 0.1, 20, 30, 0.1, 0.5, -1, 1)
        for name, label, group in (
            ("smiling", "Smile", "Expression"),
            ("older", "Age", "Look"),
            ("eyeglasses", "Eyeglasses", "Accessories"),
        )
    ]
    path = tmp_path_factory.mktemp("bundle") / "small.safetensors"
    Bundle("small", small_flow(), directions, {"bits_per_dim": 5.0, "licence": "none"}).save(path)
    return path


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real redis-server that keeps nothing on disk."""
    port = free_port()
    process = redis_server(tmp_path_factory.mktemp("redis"), port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server with the model that ships."""
    with serving(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A photograph of a face, public domain (NASA): Eileen Collins, (512, 512, 3) uint8."""
    import skimage.data

    return np.asarray(skimage.data.astronaut())
