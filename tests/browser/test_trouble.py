"""What goes wrong is said in words, with a way on; the page never gets stuck."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.browser.hand import BEFORE, Hand


def test_a_picture_without_a_face(hand: Hand, page: Page, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (160, 120), (128, 128, 128)).save(grey)
    hand.choose(grey)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No face was found")
    expect(page.locator("#busy")).to_be_hidden()
    hand.button("Use the middle of the picture as the face").click()
    hand.editing()
    expect(alert).to_be_empty()
    hand.drag(0.9)
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_a_second_picture_without_a_face(
    hand: Hand, page: Page, tmp_path: Path, photograph: Path
) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (160, 120), (128, 128, 128)).save(grey)
    hand.open(photograph)
    page.get_by_text("Mix with a second face").click()
    with page.expect_file_chooser() as dialog:
        hand.button("Choose a second photograph").click()
    dialog.value.set_files(grey)
    expect(page.get_by_role("alert").first).to_contain_text("in the second picture")
    with page.expect_file_chooser() as dialog:
        hand.button("Choose another").click()
    dialog.value.set_files(photograph)
    expect(page.get_by_role("slider", name="Share of the second face")).to_be_visible()
    expect(page.get_by_role("alert").first).to_be_empty()


def test_no_picture_at_all(hand: Hand, page: Page, tmp_path: Path, photograph: Path) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear editor,")
    hand.choose(text)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("not a readable picture")
    with page.expect_file_chooser() as dialog:
        hand.button("Choose another").click()
    dialog.value.set_files(photograph)
    hand.editing()
    expect(alert).to_be_empty()


def test_a_face_that_the_service_forgot(
    hand: Hand, page: Page, photograph: Path, server_url: str
) -> None:
    with page.expect_response("**/encode") as encoded:
        hand.open(photograph)
    address = f"{server_url}/api/v1/latents/{encoded.value.json()['latent_id']}"
    assert page.request.delete(address).status == 204
    hand.press_slider(0.9)
    page.mouse.up()
    strength = hand.value()
    expect(page.get_by_role("alert")).to_contain_text("forgotten this face")
    hand.button("Open it again").click()
    expect(page.get_by_role("alert")).to_be_empty()
    hand.editing()
    hand.rest()
    assert hand.value() == strength
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_a_service_out_of_reach(hand: Hand, page: Page, photograph: Path) -> None:
    alert = page.get_by_role("alert")
    page.context.set_offline(True)
    hand.choose(photograph)
    expect(alert).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    hand.button("Try again").click()
    hand.editing()
    page.context.set_offline(True)
    hand.press_slider(0.9)
    page.mouse.up()
    expect(alert).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    # in one go: a move that was lost on the way may have found another, and taken the words away
    page.evaluate("document.querySelector('[role=alert] .ways button')?.click()")
    expect(alert).to_be_empty()
    hand.rest()
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_opening_can_be_called_off(hand: Hand, page: Page, photograph: Path) -> None:
    held: list[Route] = []
    page.route("**/encode", lambda route: held.append(route))  # an answer that does not come
    hand.choose(photograph)
    hand.button("Cancel").click()
    expect(page.locator("#busy")).to_be_hidden()
    page.unroute("**/encode")
    hand.open(photograph)


def test_a_photograph_whose_return_is_called_off_is_forgotten(
    hand: Hand, page: Page, portrait: np.ndarray, tmp_path: Path
) -> None:
    """One that the browser cannot read comes back from the service."""
    path = tmp_path / "portrait.tif"
    Image.fromarray(portrait).save(path)
    page.route("**/edit", lambda _: None)
    with page.expect_request("**/edit"), page.expect_response("**/encode") as encoded:
        hand.choose(path)
    latent = encoded.value.json()["latent_id"]
    with page.expect_response(f"**/latents/{latent}") as forgotten:
        hand.button("Cancel").click()
    assert (forgotten.value.request.method, forgotten.value.status) == ("DELETE", 204)


@pytest.mark.parametrize("second", [False, True])
def test_what_is_called_off_is_forgotten(
    hand: Hand, page: Page, photograph: Path, second: bool
) -> None:
    """The service has the face already; its crop is still on the way."""
    if second:
        hand.open(photograph)
        page.get_by_text("Mix with a second face").click()
    page.route("**/decode", lambda _: None)  # an answer that does not come
    with page.expect_response("**/encode") as encoded:
        if second:
            with page.expect_file_chooser() as dialog:
                hand.button("Choose a second photograph").click()
            dialog.value.set_files(photograph)
        else:
            hand.choose(photograph)
    latent = encoded.value.json()["latent_id"]
    with page.expect_response(f"**/latents/{latent}") as forgotten:
        hand.button("Cancel").click()
    assert (forgotten.value.request.method, forgotten.value.status) == ("DELETE", 204)


def test_a_photograph_turned_by_its_metadata(
    hand: Hand, page: Page, photograph: Path, tmp_path: Path
) -> None:
    upright = Image.open(photograph).crop((0, 0, 512, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by a quarter, clockwise
    path = tmp_path / "turned.jpg"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    hand.open(path)
    height, width, _ = hand.pixels().shape
    assert width / height == pytest.approx(512 / 400, rel=0.01)
    hand.drag(0.9)
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    page.get_by_label("Format").select_option("PNG")
    with page.expect_download() as download:
        hand.button("Download").click()
    assert Image.open(download.value.path()).size == (512, 400)
