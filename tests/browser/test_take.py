"""What is made of faces and taken away: mixes, attributes of one's own, calls, animations."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageSequence
from playwright.sync_api import Page, expect

from app.photos import FRAME_MS
from tests.browser.hand import BEFORE, Hand

SLOW = 90_000  # ms; many faces are encoded, and the slider's ends measured


@pytest.fixture(autouse=True)
def opened(hand: Hand, photograph: Path) -> None:
    hand.open(photograph)


def test_a_second_face_is_mixed_in(hand: Hand, page: Page, photograph: Path) -> None:
    before = hand.pixels(BEFORE)
    page.get_by_text("Mix with a second face").click()
    hand.button("Generate a second face").click()
    share = page.get_by_role("slider", name="Share of the second face")
    expect(share).to_have_value("0.5")
    hand.rest()
    half = hand.pixels()
    changed = np.abs(half.astype(int) - before).max(axis=2) > 2
    assert 0.005 < changed.mean() < 0.3, "the face alone"
    share.focus()
    page.keyboard.press("Home")
    hand.rest()
    assert np.array_equal(hand.pixels(), before)
    page.keyboard.press("Control+z")
    hand.rest()
    assert np.array_equal(hand.pixels(), half)
    hand.drag(0.9, "Age")
    assert not np.array_equal(hand.pixels(), half), "a mix takes strengths too"
    with page.expect_file_chooser() as dialog:
        hand.button("Choose a second photograph").click()
    dialog.value.set_files(photograph)
    expect(page.locator("#busy")).to_be_hidden()
    hand.button("Reset all").click()
    hand.rest()
    assert np.array_equal(hand.pixels(), before)


def test_an_attribute_of_ones_own(
    hand: Hand, page: Page, portrait: np.ndarray, tmp_path: Path
) -> None:
    face = Image.fromarray(portrait)
    piles: dict[float, list[Path]] = {1.0: [], 0.6: []}
    for brightness, pile in piles.items():
        for margin in (0, 20, 40):
            path = tmp_path / f"{brightness}-{margin}.png"
            cut = face.crop((margin, 0, 440, 400))
            ImageEnhance.Brightness(cut).enhance(brightness).save(path)
            pile.append(path)
    hand.button("Make an attribute of your own").click()
    dialog = page.get_by_role("dialog", name="An attribute of your own")
    dialog.get_by_label("Name").fill("Full sun")
    dialog.get_by_label("With it", exact=False).first.set_input_files(piles[1.0][:2])
    dialog.get_by_label("Without it", exact=False).set_input_files(piles[0.6])
    dialog.get_by_role("button", name="Make the attribute").click()
    expect(dialog.get_by_role("alert")).to_contain_text("3 photographs or more")
    dialog.get_by_label("With it", exact=False).first.set_input_files(piles[1.0])
    dialog.get_by_role("button", name="Make the attribute").click()
    expect(dialog).to_be_hidden(timeout=SLOW)
    expect(hand.slider("Full sun")).to_be_visible()
    hand.slider("Full sun").focus()
    page.keyboard.press("End")
    hand.rest()
    face_before, face_after = hand.pixels(BEFORE), hand.pixels()
    assert face_after.mean() > face_before.mean() + 0.05, "brighter, as the piles say"
    hand.button("Delete Full sun").click()
    expect(hand.slider("Full sun")).to_have_count(0)
    hand.rest()
    assert np.array_equal(hand.pixels(), face_before)


def test_the_call_makes_the_same_edit(hand: Hand, page: Page, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    hand.drag(0.9)
    with page.expect_download() as download:
        hand.button("Download").click()
    hand.button("More to take away").click()
    hand.button("Copy the call").click()
    expect(page.locator("#status")).to_contain_text("Copied")
    call = page.evaluate("navigator.clipboard.readText()")
    subprocess.run(["sh", "-c", call], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "edited.png").read_bytes() == download.value.path().read_bytes()


def test_an_animated_sweep(hand: Hand, page: Page) -> None:
    hand.button("More to take away").click()
    dialog = page.get_by_role("dialog", name="Take away")
    dialog.get_by_label("Attribute").select_option("Age")
    for kind in ("GIF", "WebP"):
        dialog.get_by_label("Kind of animation").select_option(kind)
        with page.expect_download(timeout=SLOW) as download:
            dialog.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == f"portrait-older.{kind.lower()}"
        image = Image.open(download.value.path())
        assert (image.format, image.size) == (kind.upper(), (512, 512))
        shown = 0
        for frame in ImageSequence.Iterator(image):
            frame.load()
            shown += frame.info["duration"]
        assert shown == 22 * FRAME_MS  # frames alike, as where a step is cut, may be one
