"""A service that asks for keys: the page asks for one in its turn, and tells nobody."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Request, WebSocket, expect

from tests.browser.hand import BEFORE, PATIENCE, Hand
from tests.helpers import serving

KEY = "a/key+of=letters~and-signs"
OTHER = "another-key-of-16-letters"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "log"


@pytest.fixture(scope="module")
def server_url(log: Path) -> Iterator[str]:
    with serving(log, GLOW_API_KEYS=f"{KEY},{OTHER}") as url:
        yield url


@pytest.fixture
def sent() -> list[Request | WebSocket]:
    return []


@pytest.fixture
def page(browser: Browser, server_url: str, sent: list[Request | WebSocket]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1024, "height": 640}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("request", lambda request: sent.append(request))
    page.on("websocket", lambda socket: sent.append(socket))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server_url)
    yield page
    context.close()
    assert not errors


@pytest.fixture
def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog", name="The key to this service")


def give(dialog: Locator, key: str) -> None:
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def test_the_key_goes_with_every_call_and_into_no_address(
    hand: Hand,
    page: Page,
    dialog: Locator,
    photograph: Path,
    sent: list[Request | WebSocket],
    log: Path,
) -> None:
    give(dialog, KEY)
    expect(dialog).to_be_hidden()
    expect(page.locator("#sliders input").first).to_be_attached()
    with page.expect_websocket() as live:
        hand.open(photograph)
    with live.value.expect_event("framereceived"):  # the service has let it in
        hand.press_slider(0.9)
    page.mouse.up()
    hand.rest()
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    calls = [one for one in sent if isinstance(one, Request) and "/api/" in one.url]
    assert len(calls) > 5
    for number, call in enumerate(calls):  # the first two asked for model and attributes
        assert call.headers.get("x-api-key") == (KEY if number > 1 else None), call.url
    known = (KEY, quote(KEY, safe=""), base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="))
    assert not [one.url for one in sent if any(key in one.url for key in known)]
    assert not any(key in log.read_text() for key in known)
    page.reload()
    expect(page.locator("#sliders input").first).to_be_attached()
    expect(dialog).to_be_hidden()


def test_a_wrong_key_is_told_of(page: Page, dialog: Locator) -> None:
    expect(dialog.get_by_role("alert")).to_be_empty()
    give(dialog, "a-guess-of-16-letters")
    expect(dialog.get_by_role("alert")).to_contain_text("does not know this key")
    expect(dialog.get_by_label("API key")).to_have_value("")
    give(dialog, "with spaces in it")
    expect(dialog).to_be_visible()  # the browser says what a key is made of
    give(dialog, OTHER)
    expect(page.locator("#sliders input").first).to_be_attached()
    expect(dialog).to_be_hidden()


def test_without_a_key_the_page_says_what_is_missing(
    hand: Hand, page: Page, dialog: Locator
) -> None:
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("without an API key")
    hand.button("Try again").click()
    give(dialog, KEY)
    expect(alert).to_be_empty()
    hand.generate()
    hand.editing()


def test_the_call_holds_a_place_for_the_key(
    hand: Hand, page: Page, dialog: Locator, tmp_path: Path
) -> None:
    give(dialog, KEY)
    hand.generate()
    hand.editing()
    hand.button("More to take away").click()
    call = page.locator("#curl").inner_text()
    assert KEY not in call
    expect(page.locator("#take")).to_contain_text("$GLOW_API_KEY stands for your key")
    environment = {"GLOW_API_KEY": KEY, "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-c", call], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert (tmp_path / "edited.png").read_bytes().startswith(b"\x89PNG")
