"""What tests build on: small flows, picture files, and real processes."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import torch
from PIL import Image

from model.config import FlowConfig
from model.flow import Flow

SMALL = FlowConfig(resolution=32, steps=(2, 2, 2), hidden=(16, 16, 16))
ROOT = Path(__file__).parent.parent
START_SECONDS = 60


def small_flow(seed: int = 0, config: FlowConfig = SMALL) -> Flow:
    """A flow whose every parameter has moved from its start, on smooth pictures."""
    torch.manual_seed(seed)
    flow = Flow(config)
    coarse = torch.rand(16, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(coarse, size=config.resolution, mode="bicubic")
    flow.initialize((smooth * 255).clamp(0, 255).to(torch.uint8))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return flow.eval().requires_grad_(False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} did not start"
        time.sleep(0.05)


@contextmanager
def serving(log: Path, **environment: str) -> Iterator[str]:
    """`python -m app` as a process of its own; its base URL."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            cwd=ROOT,
            # one thread: beside a browser or another server, threads that wait for one another spin
            env={**os.environ, "PORT": str(port), "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """A picture's file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
