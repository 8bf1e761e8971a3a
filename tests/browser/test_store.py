"""The page through a death of Redis: it says what is wrong, and goes on where it was."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.hand import Hand
from tests.helpers import free_port, redis_server, serving


class Redis:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = redis_server(self._folder, self.port)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Redis]:
    redis = Redis(tmp_path)
    redis.start()
    yield redis
    redis.kill()


@pytest.fixture
def server_url(store: Redis, tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "log", GLOW_REDIS_URL=f"redis://127.0.0.1:{store.port}/0") as url:
        yield url


def test_redis_is_killed_and_comes_back(
    hand: Hand, page: Page, photograph: Path, store: Redis
) -> None:
    hand.open(photograph)
    store.kill()
    hand.press_slider(0.9)
    page.mouse.up()
    strength = hand.value()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("store of latents cannot be reached", timeout=20_000)
    store.start()
    hand.button("Try again").click()
    expect(alert).to_contain_text("forgotten this face")  # Redis kept it in memory alone
    hand.button("Open it again").click()
    hand.editing()
    expect(alert).to_be_empty()
    assert hand.value() == strength
