"""Every way in, and the ways out."""

import base64
import re
from pathlib import Path

import numpy as np
from playwright.sync_api import APIRequestContext, Page, Response, expect

from tests.browser.hand import BEFORE, Hand

# A file in the hands of a drag or a clipboard; only a page's own script can make one.
TRANSFER = """([kind, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  if (name) transfer.items.add(new File([bytes], name, { type }));
  const more = { bubbles: true, cancelable: true };
  const target = document.querySelector("h1");
  if (kind === "paste") {
    target.dispatchEvent(new ClipboardEvent("paste", { ...more, clipboardData: transfer }));
    return;
  }
  for (const step of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(step, { ...more, dataTransfer: transfer }));
    if (step === "dragover" && !document.querySelector("#veil.shown")) throw Error("no veil");
  }
}"""


def transfer(page: Page, kind: str, path: Path | None) -> None:
    data = base64.b64encode(path.read_bytes()).decode() if path else ""
    page.evaluate(TRANSFER, [kind, path.name if path else "", "image/png", data])


def test_drop_and_paste(hand: Hand, page: Page, photograph: Path) -> None:
    for kind, trouble in (("drop", "Drop an image file"), ("paste", "no picture on the clipboard")):
        transfer(page, kind, None)
        expect(page.get_by_role("alert")).to_contain_text(trouble)
        expect(page.locator("#veil.shown")).to_have_count(0)
        transfer(page, kind, photograph)
        hand.editing()
        expect(page.get_by_role("alert")).to_be_empty()
        hand.button("Delete now").click()
        expect(page.locator("body[data-screen=start]")).to_be_visible()


def test_generate_gives_a_new_face_each_time(hand: Hand, page: Page) -> None:
    hand.generate()
    hand.editing()
    first = hand.pixels(BEFORE)
    assert hand.button("Crop").count() == 0, "a generated face is its crop"
    with page.expect_response(lambda r: "/latents/" in r.url and r.request.method == "DELETE"):
        hand.generate()
    hand.until(lambda: not np.array_equal(hand.pixels(BEFORE), first))
    hand.drag(0.9)
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    hand.button("Reset all").click()
    assert np.array_equal(hand.pixels(), hand.pixels(BEFORE))
    with page.expect_download() as download:
        hand.button("Download").click()
    assert download.value.suggested_filename.startswith("face-")


def test_delete_forgets_the_photograph(
    hand: Hand, page: Page, photograph: Path, server_url: str
) -> None:
    with page.expect_response("**/encode") as encoded:
        hand.open(photograph)
    expect(page.locator("#countdown")).to_have_text(_minutes(encoded.value))
    address = f"{server_url}/api/v1/latents/{encoded.value.json()['latent_id']}"
    assert _status(page.request, address) == 200
    hand.drag(0.9)
    hand.button("Delete now").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(hand.button("Choose a photograph")).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("Deleted")
    assert _status(page.request, address) == 404
    hand.open(photograph)
    assert hand.value() == "0.00"
    expect(hand.button("Undo")).to_be_disabled()


def test_closing_by_mistake_costs_nothing(hand: Hand, photograph: Path) -> None:
    hand.open(photograph)
    hand.drag(0.9)
    strength, edited = hand.value(), hand.pixels()
    hand.button("Glow Editor, back to the start").click()
    hand.button("Open it again").click()
    hand.editing()
    hand.rest()
    assert hand.value() == strength
    assert np.array_equal(hand.pixels(), edited)


def _status(request: APIRequestContext, address: str) -> int:
    return request.get(address).status


def _minutes(encoded: Response) -> re.Pattern[str]:
    seconds = encoded.json()["expires_in"]
    # a few seconds may have passed
    return re.compile("|".join(f"^{s // 60}:{s % 60:02}$" for s in range(seconds - 9, seconds + 1)))
