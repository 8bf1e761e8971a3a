"""Editing a photograph, as a hand would."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.hand import BEFORE, Hand, difference


@pytest.fixture(autouse=True)
def opened(hand: Hand, photograph: Path) -> None:
    hand.open(photograph)


def wants_photo(request: Request) -> bool:
    return '"photo"' in (request.post_data or "")


def test_a_slider_changes_the_face_and_nothing_else(hand: Hand) -> None:
    before = hand.pixels(BEFORE)
    assert np.array_equal(hand.pixels(), before)
    hand.drag(0.9)
    change = np.abs(hand.pixels().astype(int) - before).max(axis=2)
    rows, columns = np.nonzero(change > 2)
    height, width = change.shape
    assert len(rows) > 0.005 * change.size
    assert rows.max() < 0.5 * height, "the portrait's face is in its upper half"
    assert 0.2 * width < columns.min() < columns.max() < 0.7 * width
    assert np.array_equal(hand.pixels(BEFORE), before)


def test_the_reading_follows_the_strength(hand: Hand) -> None:
    reads = hand.reading()
    hand.drag(0.9)
    strength = float(hand.value())
    assert strength > 0.2
    assert hand.value().startswith("+")
    assert hand.reading() == pytest.approx(reads + strength, abs=0.101)


def test_the_picture_follows_while_the_slider_moves(hand: Hand, page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        if wants_photo(route.request):
            held.append(route)
        else:
            route.continue_()

    page.route("**/edit", hold)
    before = hand.pixels()
    hand.press_slider(0.9)
    hand.until(lambda: bool(held))
    moving = hand.pixels()
    page.mouse.up()
    held[-1].continue_()
    hand.rest()
    resting = hand.pixels()
    assert difference(moving, before) > 0.1
    assert difference(moving, resting) < 0.2 * difference(moving, before)


def test_reset_gives_the_picture_back(hand: Hand, page: Page) -> None:
    before = hand.pixels()
    expect(hand.button("Reset all")).to_be_disabled()
    hand.drag(0.9)
    hand.drag(0.2, "Eyeglasses")
    assert not np.array_equal(hand.pixels(), before)
    hand.button("Reset all").click()
    hand.rest()
    assert np.array_equal(hand.pixels(), before)
    hand.drag(0.9)
    edited = hand.value()
    hand.slider().dblclick()
    hand.rest()
    assert hand.value() == "0.00"
    assert np.array_equal(hand.pixels(), before)
    hand.button("Undo").click()
    assert hand.value() == edited, "both clicks are one step"
    hand.button("Redo").click()
    page.keyboard.press("ArrowRight")
    hand.rest()
    page.keyboard.press("Delete")
    hand.rest()
    assert np.array_equal(hand.pixels(), before)


def test_undo_and_redo(hand: Hand, page: Page) -> None:
    expect(hand.button("Undo")).to_be_disabled()
    expect(hand.button("Redo")).to_be_disabled()
    hand.drag(0.9)
    one, first = hand.value(), hand.pixels()
    hand.drag(0.1, "Eyeglasses")
    two = hand.value("Eyeglasses")

    hand.button("Undo").click()
    hand.rest()
    assert (hand.value(), hand.value("Eyeglasses")) == (one, "0.00")
    assert np.array_equal(hand.pixels(), first)
    page.keyboard.press("Control+z")
    hand.rest()
    assert hand.value() == "0.00"
    assert np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    expect(hand.button("Undo")).to_be_disabled()

    page.keyboard.press("Control+Shift+z")
    assert hand.value() == one
    hand.button("Redo").click()
    hand.rest()
    assert (hand.value(), hand.value("Eyeglasses")) == (one, two)
    expect(hand.button("Redo")).to_be_disabled()

    hand.button("Reset all").click()
    hand.slider().focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert hand.value() == "+0.20"
    page.keyboard.press("Control+z")
    assert hand.value() == "0.00", "arrow keys pressed in a row are one step"


def test_the_divider_parts_before_from_after(hand: Hand, page: Page) -> None:
    hand.drag(0.95)
    hand.button("Crop").click()
    divider = page.get_by_role("slider", name="Divider between before and after")
    box = page.locator("#picture").bounding_box()
    assert box

    def put(share: float) -> np.ndarray:
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.8)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.8, steps=4)
        page.mouse.up()
        expect(divider).to_have_attribute("aria-valuenow", str(round(100 * share)))
        return hand.seen()

    def middle(seen: np.ndarray) -> np.ndarray:
        height, width, _ = seen.shape
        return seen[height // 3 : height // 3 * 2, width // 3 : width // 3 * 2]

    before, after = middle(put(0.98)), middle(put(0.02))
    assert difference(before, after) > 1
    half = middle(put(0.5))
    left, right = np.s_[:, : half.shape[1] // 2 - 30], np.s_[:, half.shape[1] // 2 + 30 :]
    assert difference(half[left], before[left]) < 0.01
    assert difference(half[right], after[right]) < 0.01

    page.keyboard.press("End")
    expect(divider).to_have_attribute("aria-valuenow", "100")
    assert difference(middle(hand.seen()), before) < 0.01
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuetext", "12% before, 88% after")


def test_holding_shows_the_original(hand: Hand, page: Page) -> None:
    hand.drag(0.95)
    hand.button("Crop").click()
    after = hand.seen()
    button = hand.button("Hold to see the original")
    button.hover()
    page.mouse.down()
    expect(button).to_have_attribute("aria-pressed", "true")
    original = hand.seen()
    page.mouse.up()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert difference(original, after) > 1
    page.keyboard.down("o")
    assert difference(hand.seen(), original) < 0.01
    page.keyboard.up("o")
    button.focus()
    page.keyboard.down("Space")
    expect(button).to_have_attribute("aria-pressed", "true")
    page.keyboard.up("Space")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_the_crop_is_seen_alone(hand: Hand, page: Page) -> None:
    whole = hand.pixels()
    hand.button("Crop").click()
    crop = hand.pixels()
    assert crop.shape[0] == crop.shape[1]
    assert difference(crop[::8, ::8][:60, :60], whole[::8, ::8][:60, :60]) > 5
    page.keyboard.press("v")
    assert np.array_equal(hand.pixels(), whole)


def test_download(hand: Hand, page: Page, tmp_path: Path, portrait: np.ndarray) -> None:
    def save(what: str, kind: str) -> Image.Image:
        page.get_by_label("What to download").select_option(what)
        page.get_by_label("Format").select_option(kind)
        with page.expect_download() as download:
            hand.button("Download").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return Image.open(path)

    untouched = save("Photograph", "PNG")
    assert np.array_equal(np.asarray(untouched), portrait)
    hand.drag(0.9)
    for kind, ending in (("PNG", "png"), ("JPEG", "jpg"), ("WebP", "webp")):
        image = save("Photograph", kind)
        assert Path(image.filename).name == f"portrait-edited.{ending}"
        assert image.format == kind.upper()
        assert image.size == portrait.shape[1::-1]
        assert difference(np.asarray(image.convert("RGB")), portrait) > 0.05
    resolution = page.evaluate("fetch('api/v1/model').then(r => r.json()).then(m => m.resolution)")
    for strength in ("Reset all", "Undo"):
        hand.button(strength).click()
        assert save("Crop", "PNG").size == (resolution, resolution)
