"""Chromium on the real page, served by the real server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.browser.hand import PATIENCE, Hand

NAMES = ("chromium", "google-chrome", "chromium-browser")
# Nothing of the browser's own may reach for the network, or need a GPU.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # a camera without hardware, which shows what the fixture films
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# What Chromium itself logs about an answer that is an error, or about a network that is gone.
TOLD = "Failed to load resource"

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def film(portrait: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the camera sees: the portrait, as an uncompressed video of one frame."""
    height, width, _ = portrait.shape
    y, blue, red = Image.fromarray(portrait).convert("YCbCr").split()
    half = (width // 2, height // 2)
    planes = [y, blue.resize(half), red.resize(half)]
    path = tmp_path_factory.mktemp("camera") / "portrait.y4m"
    header = f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\nFRAME\n".encode()
    path.write_bytes(header + b"".join(plane.tobytes() for plane in planes))
    return path


@pytest.fixture(scope="module")
def browser(film: Path) -> Iterator[Browser]:
    # not for the whole session: while Playwright's loop is up, no other test can run one
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    assert executable, f"no {', '.join(NAMES)} is on the path; tests/setup.sh installs one"
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def options() -> dict[str, object]:
    """Of the browser's window; tests override it by parametrizing."""
    return {}


@pytest.fixture
def page(browser: Browser, server_url: str, options: dict[str, object]) -> Iterator[Page]:
    """The start of the page. Whatever the test does, it has to end without an error in the
    console and without a request to anywhere else."""
    usual = {"viewport": {"width": 1024, "height": 640}, "reduced_motion": "reduce"}
    context = browser.new_context(**{**usual, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors: list[str] = []
    addresses: set[str] = set()

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(TOLD):
            errors.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.add(request.url))
    page.goto(server_url)
    # not wait_for_function: its polling evaluates strings, which the page's policy forbids
    page.locator("#sliders input").first.wait_for(state="attached")
    yield page
    context.close()
    assert not errors
    origin = urlsplit(server_url).netloc
    assert {urlsplit(address).netloc for address in addresses if not _local(address)} == {origin}


def _local(address: str) -> bool:
    return address.startswith(("blob:", "data:"))


@pytest.fixture
def hand(page: Page) -> Hand:
    return Hand(page)


@pytest.fixture
def photograph(portrait: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "portrait.png"
    Image.fromarray(portrait).save(path)
    return path
