"""Settings that travel: links, the clipboard, chance; and where a face lies today."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.hand import BEFORE, Hand


def test_a_link_restores_the_strengths(
    hand: Hand, page: Page, photograph: Path, server_url: str
) -> None:
    hand.open(photograph)
    hand.drag(0.9)
    hand.drag(0.2, "Eyeglasses")
    kept, pixels, link = hand.value(), hand.pixels(), page.url
    assert "smiling=" in link
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_text("The settings of your link wait for a face")).to_be_visible()
    hand.open(photograph)
    hand.rest()
    assert hand.value() == kept
    assert hand.value("Eyeglasses") != "0.00"
    assert np.array_equal(hand.pixels(), pixels)
    hand.button("Reset all").click()
    assert page.url == f"{server_url}/"


def test_a_link_restores_a_generated_face(hand: Hand, page: Page) -> None:
    hand.generate()
    hand.editing()
    hand.drag(0.9)
    first, link = hand.pixels(), page.url
    page.goto("about:blank")
    page.goto(link)
    hand.editing()
    hand.rest()
    assert np.array_equal(hand.pixels(), first)


def test_settings_are_copied_to_another_photograph(
    hand: Hand, page: Page, photograph: Path
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    hand.open(photograph)
    hand.drag(0.9)
    kept = hand.value()
    page.keyboard.press("Control+c")
    expect(page.locator("#status")).to_contain_text("Copied")
    hand.open(photograph)
    assert hand.value() == "0.00"
    page.keyboard.press("Control+v")
    assert hand.value() == kept
    page.keyboard.press("Control+z")
    assert hand.value() == "0.00"
    hand.button("More").click()
    hand.button("Paste settings").click()
    hand.until(lambda: hand.value() == kept)
    hand.rest()
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_chance_is_one_step(hand: Hand, page: Page) -> None:
    hand.generate()
    hand.editing()
    hand.button("Randomise").click()
    hand.rest()
    assert len(re.findall("=", page.url)) >= 3, "the seed, the temperature, a strength"
    first, pixels = page.url, hand.pixels()
    assert not np.array_equal(pixels, hand.pixels(BEFORE))
    page.keyboard.press("r")
    hand.rest()
    assert page.url != first
    page.keyboard.press("Control+z")
    hand.rest()
    assert (page.url, hand.pixels().tolist()) == (first, pixels.tolist())
    hand.button("Undo").click()
    hand.rest()
    assert np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_a_mark_tells_where_the_face_lies(
    hand: Hand, page: Page, photograph: Path, server_url: str
) -> None:
    with page.expect_response("**/encode") as encoded:
        hand.open(photograph)
    readings = encoded.value.json()["readings"]
    for attribute in page.request.get(f"{server_url}/api/v1/attributes").json():
        slider = hand.slider(attribute["label"])
        least, most = (float(slider.get_attribute(end) or "nan") for end in ("min", "max"))
        mark = float(slider.evaluate("s => s.style.getPropertyValue('--today')"))
        lies = min(most, max(least, readings[attribute["name"]]))
        assert mark == pytest.approx((lies - least) / (most - least), abs=1e-6)


def test_a_doubtful_edit_is_called_one(hand: Hand, page: Page, photograph: Path) -> None:
    hand.open(photograph)
    doubt = page.locator("#doubt")
    expect(doubt).to_be_hidden()
    hand.slider("Age").focus()
    page.keyboard.press("End")
    expect(doubt).to_contain_text("Unreliable: Age")
    hand.rest()
    hand.button("Undo").click()
    expect(doubt).to_be_hidden()
