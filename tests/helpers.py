"""What tests build on: small flows, picture files, and real processes."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import redis
import torch
from PIL import Image

from model.config import FlowConfig
from model.flow import Flow

SMALL = FlowConfig(resolution=32, steps=(2, 2, 2), hidden=(16, 16, 16))
ROOT = Path(__file__).parent.parent
START_SECONDS = 60
SIDE = 128  # of a crop of the model that ships, pixels


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


def wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen[bytes] | None = None,
    seconds: float = START_SECONDS,
) -> None:
    """Raises where it does not come true in time, or the process ends before."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process is None or process.poll() is None, (
            f"{process.args} ended with {process.returncode}"
        )
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {ready}"
        time.sleep(0.02)


def redis_server(folder: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    """A real redis-server that keeps nothing on disk, when it answers."""
    executable = shutil.which("redis-server")
    assert executable, "redis-server is missing; tests/setup.sh installs it"
    process = subprocess.Popen(
        [executable, "--port", str(port), "--save", "", "--appendonly", "no", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with redis.Redis(port=port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    wait_until(answers, process)
    return process


@dataclass
class Server:
    """`python -m app` as a process of its own."""

    log: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        self.launch()
        wait_until(self._answers, self.process)

    def launch(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app"],
                cwd=ROOT,
                # one thread: beside a browser or another server, threads that wait for one another
                # spin
                env={
                    **os.environ,
                    "PORT": str(self.port),
                    "OMP_NUM_THREADS": "1",
                    **self.environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def serving(log: Path, **environment: str) -> Iterator[str]:
    """A server's base URL, while it runs."""
    server = Server(log, environment)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


def unframed(output: str) -> str:
    """What a command printed, in one line and without the frame around its errors."""
    return " ".join(output.replace("│", "").split())


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """A picture's file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
