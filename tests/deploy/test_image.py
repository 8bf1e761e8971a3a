"""The image that the Dockerfile describes: made, started as it would be, and used."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest

from app.client import GlowEditor
from tests.deploy.image import Image
from tests.helpers import ROOT, encoded, free_port, pixels_of, wait_until


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@dataclass
class Container:
    process: subprocess.Popen[bytes]
    url: str
    log: Path


@pytest.fixture(scope="module")
def container(image: Image, logs: Path) -> Iterator[Container]:
    port, log = free_port(), logs / "container"
    environment = {"PORT": str(port), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = image.start(environment=environment, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx2.get(f"{url}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(ready, process, 120)
    yield Container(process, url, log)
    process.terminate()
    assert process.wait(40) == -signal.SIGTERM  # which uvicorn raises anew when it has finished
    assert "Application shutdown complete" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_it_says_what_it_is(image: Image) -> None:
    labels = {name.rpartition(".")[2]: text for name, text in image.final.labels.items()}
    assert labels["title"] == "Glow Editor"
    assert labels["licenses"] == "MIT"
    assert labels["version"] == "1.2.3"


def test_a_photograph_comes_back_as_it_was(container: Container, portrait: np.ndarray) -> None:
    with GlowEditor(container.url) as glow:
        latent_id = glow.encode(encoded(portrait))["latent_id"]
        assert (pixels_of(glow.edit(latent_id, {}, output="photo")) == portrait).all()
        smiling = pixels_of(glow.edit(latent_id, {"smiling": 0.7}, output="photo"))
        assert (smiling != portrait).any()
        with glow.live() as live:
            assert live.send(latent_id, {"older": 0.5}) == live.receive()[0]
        glow.delete(latent_id)


def test_page_and_documents_are_inside(container: Container) -> None:
    for path, content in (
        ("/", "text/html"),
        ("/main.js", "text/javascript"),
        ("/docs", "text/html"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/openapi.json", "application/json"),
    ):
        answer = httpx2.get(container.url + path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(content), path


def test_it_runs_as_nobody_in_particular_with_no_rights(container: Container) -> None:
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert facts["Gid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_it_runs_of_its_own_files(image: Image, container: Container) -> None:
    code = "import app.main, torch; print(app.main.__file__, app.main.STATIC, torch.__file__)"
    process = image.start(["python", "-c", code], stdout=subprocess.PIPE)
    output, _ = process.communicate()
    assert process.returncode == 0
    for place in output.decode().split():
        assert place.startswith("/opt/glow/lib/"), output
    command = Path(f"/proc/{container.process.pid}/cmdline").read_text().split("\0")
    assert command[1:-1] == ["/opt/glow/bin/glow-editor", "serve"]


@pytest.mark.parametrize("place", ["/opt/glow/x", "/x", "/var/tmp/x", "/etc/x"])
def test_nothing_can_be_written(image: Image, place: str) -> None:
    process = image.start(["touch", place], stderr=subprocess.PIPE)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert b"Read-only file system" in errors or b"Permission denied" in errors


def test_its_health_is_that_of_the_server(image: Image, container: Container) -> None:
    port = container.url.rpartition(":")[2]
    assert image.check_health(container.process, PORT=port) == 0
    assert image.check_health(container.process, PORT=str(free_port())) != 0


def test_the_tools_are_there_too(image: Image) -> None:
    process = image.start(["glow-editor", "--help"], stdout=subprocess.PIPE)
    output, _ = process.communicate()
    for command in ("serve", "train", "pack", "directions", "evaluate", "card"):
        assert command in output.decode()


def test_another_variant_is_refused() -> None:
    """By the step itself, before anything is fetched."""
    run = next(text for text in (ROOT / "Dockerfile").read_text().split("RUN ") if "case" in text)
    script = run[run.index("case") : run.index("esac") + 4]
    done = subprocess.run(
        ["sh", "-ec", script], env={"VARIANT": "rocm"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "VARIANT must be cuda or cpu, not rocm" in done.stderr
