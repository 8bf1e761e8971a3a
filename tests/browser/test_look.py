"""Looking closely: near, at what changed, at an attribute from end to end, at two at once."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.hand import BEFORE, Hand, difference


@pytest.fixture(autouse=True)
def opened(hand: Hand, photograph: Path) -> None:
    hand.open(photograph)


def middle(page: Page) -> tuple[float, float]:
    box = page.locator("#picture").bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_zoom_and_pan(hand: Hand, page: Page) -> None:
    whole = hand.pixels(BEFORE)
    x, y = middle(page)
    page.mouse.move(x - 30, y - 150)  # at the face
    page.mouse.wheel(0, -500)
    label = page.get_by_role("button", name="Fit the window")
    expect(label).to_have_text("2.7\N{MULTIPLICATION SIGN}")
    near = hand.pixels(BEFORE)
    x, y = middle(page)
    divider = page.get_by_role("slider", name="Divider between before and after")
    place = divider.get_attribute("aria-valuenow")
    page.mouse.move(x + 100, y + 100)
    page.mouse.down()
    page.mouse.move(x + 40, y + 60, steps=4)
    page.mouse.up()
    panned = hand.pixels(BEFORE)
    assert difference(panned, near) > 1
    # what was pressed went along with the hand: 60 to the left, 40 up
    assert difference(panned[:-40, :-60], near[40:, 60:]) < 0.1 * difference(panned, near)
    assert divider.get_attribute("aria-valuenow") == place, "near, a press moves the picture"
    page.keyboard.press("Shift+ArrowRight")
    assert difference(hand.pixels(BEFORE), panned) > 1
    grip = divider.locator(".grip").bounding_box()
    assert grip
    page.mouse.move(grip["x"] + 22, grip["y"] + 22)
    page.mouse.down()
    page.mouse.move(grip["x"] + 122, grip["y"] + 22, steps=3)
    page.mouse.up()
    assert divider.get_attribute("aria-valuenow") != place
    hand.drag(0.9)
    assert difference(hand.pixels(), hand.pixels(BEFORE)) > 0
    page.keyboard.press("0")
    expect(label).to_have_text("1\N{MULTIPLICATION SIGN}")
    assert np.array_equal(hand.pixels(BEFORE), whole)
    hand.button("Nearer").click()
    expect(label).to_have_text("1.5\N{MULTIPLICATION SIGN}")
    hand.button("Farther").click()
    assert np.array_equal(hand.pixels(BEFORE), whole)


def test_the_map_of_what_changed(hand: Hand, page: Page) -> None:
    hand.drag(0.9)
    before, after = (hand.pixels(canvas).astype(int) for canvas in (BEFORE, "canvas#after"))
    hand.button("Map of what changed").click()
    mapped = hand.pixels().astype(int)
    changed = np.abs(after - before).max(axis=2)
    same, moved = changed == 0, changed > 12
    assert np.abs(mapped - 0.2 * before)[same].max() <= 2, "the picture, dim"
    assert (mapped - 0.2 * before).max(axis=2)[moved].min() > 60, "bright where it changed"
    page.keyboard.press("m")
    assert np.array_equal(hand.pixels(), after)


def open_explorer(hand: Hand) -> None:
    hand.button("More").click()
    hand.button("Filmstrip and grid").click()


def test_a_filmstrip_of_one_attribute(hand: Hand, page: Page) -> None:
    hand.drag(0.2, "Eyeglasses")
    glasses = hand.value("Eyeglasses")
    open_explorer(hand)
    page.get_by_label("Across", exact=True).select_option("Age")
    frames = page.get_by_role("group", name="Pictures").get_by_role("button")
    expect(frames.first).to_have_attribute("title", "Age \N{MINUS SIGN}1.50")
    expect(frames).to_have_count(9)
    seen = [frame.screenshot() for frame in (frames.first, frames.last)]
    assert seen[0] != seen[1]
    frames.last.click()
    hand.rest()
    most = float(hand.slider("Age").get_attribute("max") or 0)
    assert (hand.value("Age"), hand.value("Eyeglasses")) == (f"+{most:.2f}", glasses)
    hand.button("Undo").click()
    assert hand.value("Age") == "0.00"


def test_a_grid_of_two_attributes(hand: Hand, page: Page) -> None:
    open_explorer(hand)
    page.get_by_label("Across", exact=True).select_option("Age")
    page.get_by_label("Down", exact=True).select_option("Beard")
    frames = page.get_by_role("group", name="Pictures").get_by_role("button")
    expect(frames).to_have_count(25)
    frames.nth(3).click()
    hand.rest()
    ends = hand.slider("Age").get_attribute("min"), hand.slider("Age").get_attribute("max")
    least, most = (float(end or 0) for end in ends)
    age, beard = least + (most - least) * 3 / 4, hand.slider("Beard").get_attribute("max")
    assert (hand.value("Age"), hand.value("Beard")) == (f"+{age + 1e-9:.2f}", f"+{beard}")
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
