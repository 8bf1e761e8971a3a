"""Starts beyond a chosen file: camera, temperature, one face of several, a crop placed by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Response, expect

from tests.browser.hand import BEFORE, Hand


def placed(response: Response) -> list[float]:
    """The crop that the service took: x, y, size, angle."""
    face = response.json()["face"]
    assert not face["found"], "it was told where"
    return [*(face["box"][key] for key in ("x", "y", "size")), face["angle"]]


def test_a_photograph_from_the_camera(hand: Hand, page: Page, portrait: np.ndarray) -> None:
    hand.button("Use the camera").click()
    dialog = page.get_by_role("dialog", name="Camera")
    hand.until(lambda: bool(page.evaluate("document.querySelector('#film').videoWidth")))
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    hand.button("Use the camera").click()
    hand.until(lambda: bool(page.evaluate("document.querySelector('#film').videoWidth")))
    dialog.get_by_role("button", name="Take the photograph").click()
    hand.editing()
    assert page.evaluate("document.querySelector('#film').srcObject") is None, "it is off"
    filmed = np.asarray(Image.fromarray(hand.pixels(BEFORE)).resize((64, 64))).astype(int)
    real = np.asarray(Image.fromarray(portrait).resize((64, 64))).astype(int)
    assert np.abs(filmed - real).mean() < 12
    hand.drag(0.9)
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))


def test_no_camera_is_said_in_words(hand: Hand, page: Page) -> None:
    page.evaluate(
        """() => { navigator.mediaDevices.getUserMedia = async () => {
        throw new DOMException("no", "NotAllowedError"); }; }"""
    )
    hand.button("Use the camera").click()
    expect(page.get_by_role("alert").first).to_contain_text("Allow it for this page")


def test_the_temperature_of_a_generated_face(hand: Hand, page: Page) -> None:
    with page.expect_request("**/sample") as first:
        hand.generate()
    hand.editing()
    bold = hand.pixels(BEFORE)
    hand.drag(0.9)
    strength = hand.value()
    slider = page.get_by_role("slider", name="Temperature")
    slider.focus()
    with page.expect_request("**/sample") as second:
        page.keyboard.press("Home")
    hand.editing()
    hand.until(lambda: not np.array_equal(hand.pixels(BEFORE), bold))
    drawn = [request.value.post_data_json for request in (first, second)]
    assert [draw["temperature"] for draw in drawn] == [0.7, 0]
    assert drawn[0]["seed"] == drawn[1]["seed"], "the same face, nearer to the mean"
    assert hand.value() == strength
    with page.expect_request("**/sample") as third:
        hand.generate()
    assert third.value.post_data_json["temperature"] == 0
    assert third.value.post_data_json["seed"] != drawn[0]["seed"]


def test_the_found_face_is_outlined(hand: Hand, page: Page, photograph: Path) -> None:
    with page.expect_response("**/encode") as encoded:
        hand.open(photograph)
    frame = page.locator("#frame")
    expect(frame).to_have_css("opacity", "0.95")
    box = encoded.value.json()["face"]["box"]
    place = frame.evaluate("f => [f.offsetLeft, f.offsetTop, f.offsetWidth, f.offsetHeight]")
    width = page.locator("#picture").evaluate("p => p.offsetWidth")
    scale = width / 512
    expected = [box["x"] * scale, box["y"] * scale, box["size"] * scale, box["size"] * scale]
    assert place == pytest.approx(expected, abs=2)
    expect(frame).to_have_css("opacity", "0")


def test_one_face_of_several(hand: Hand, page: Page, portrait: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    Image.fromarray(np.concatenate([portrait[:, :450], portrait[:, 449::-1]], axis=1)).save(path)
    with page.expect_response("**/encode") as encoded:
        hand.open(path)
    found = encoded.value.json()
    assert found["others"]
    with page.expect_response("**/encode") as again:
        page.get_by_role("button", name="Edit face 2").click()
    hand.until(lambda: page.locator("#busy").is_hidden())
    other = found["others"][0]
    expected = [*(other["box"][key] for key in ("x", "y", "size")), other["angle"]]
    assert placed(again.value) == pytest.approx(expected, abs=0.01)
    hand.drag(0.9)
    change = np.abs(hand.pixels().astype(int) - hand.pixels(BEFORE)).max(axis=2)
    columns = np.nonzero(change > 4)[1] / change.shape[1] * 900
    assert other["box"]["x"] < np.median(columns) < other["box"]["x"] + other["box"]["size"]


def test_a_crop_placed_by_hand(hand: Hand, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("RGB", (400, 300), (128, 128, 128)).save(path)
    hand.choose(path)
    hand.button("Place the crop by hand").click()
    dialog = page.get_by_role("dialog", name="Adjust the crop")
    crop = dialog.get_by_role("group", name=re.compile("^Crop"))
    expect(crop).to_be_visible()
    bed = page.locator("#bed").bounding_box()
    assert bed
    scale = 400 / bed["width"]

    def drag(part: str, x: float, y: float) -> None:
        box = page.locator(part).bounding_box()
        assert box
        at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*at)
        page.mouse.down()
        page.mouse.move(at[0] + x / scale, at[1] + y / scale, steps=4)
        page.mouse.up()

    drag("#cropper .corner-grip", -90, -90)  # from 300 to 120 about its middle
    drag("#cropper .crop-box", -60, 30)
    crop.focus()
    page.keyboard.press("ArrowRight")
    drag("#cropper .turn", 60, 60)  # from above the middle to its right
    with page.expect_response("**/encode") as sent:
        dialog.get_by_role("button", name="Use this crop").click()
    hand.editing()
    x, y, size, angle = placed(sent.value)
    assert size == pytest.approx(120, abs=3)
    assert (x + size / 2, y + size / 2) == pytest.approx((140 + 0.02 * size, 180), abs=3)
    assert angle == pytest.approx(90, abs=3)
    hand.button("Adjust the crop").click()
    dialog.get_by_label("Turn").focus()
    page.keyboard.press("ArrowLeft")
    dialog.get_by_label("Size").focus()
    page.keyboard.press("ArrowLeft")
    with page.expect_response("**/encode") as sent:
        dialog.get_by_role("button", name="Use this crop").click()
    assert placed(sent.value)[2:] == pytest.approx([size - 1, angle - 1], abs=1)
    hand.editing()
    hand.drag(0.9)
    strength = hand.value()
    hand.button("Adjust the crop").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    hand.button("Adjust the crop").click()
    with page.expect_response("**/encode"):
        dialog.get_by_role("button", name="Use this crop").click()
    hand.editing()
    hand.rest()
    assert hand.value() == strength
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    hand.button("Undo").click()
    assert hand.value() == "0.00", "what was set before can be undone"


def test_the_upload_tells_how_far_it_is(hand: Hand, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    network = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {**limits, "uploadThroughput": 400_000})
    hand.choose(path)
    expect(page.locator("#busy-text")).to_have_text(re.compile(r"Uploading [1-9]\d?%"))
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    hand.button("Cancel").click()
    expect(page.locator("#busy")).to_be_hidden()
