"""What a hand does to the page, and what an eye sees of it."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

AFTER = "canvas#after"
BEFORE = "canvas#before"
PATIENCE = 30_000  # ms; browser, server and model may share a core with much else


class Hand:
    def __init__(self, page: Page) -> None:
        self.page = page

    def choose(self, path: Path) -> None:
        """Choose a file through the file dialog, from wherever the page is."""
        with self.page.expect_file_chooser() as dialog:
            self.button("Choose a photograph", "Open a photograph").click()
        dialog.value.set_files(path)

    def open(self, path: Path) -> None:
        self.choose(path)
        self.editing()

    def generate(self) -> None:
        self.button("Generate a face").first.click()

    def editing(self) -> None:
        """Wait until a picture is open."""
        expect(self.page.locator("body[data-screen=edit]")).to_be_visible()
        expect(self.page.locator("#busy")).to_be_hidden()

    def button(self, *names: str) -> Locator:
        """The shown button of one of these names."""
        found = self.page.get_by_role("button", name=names[0], exact=True)
        for name in names[1:]:
            found = found.or_(self.page.get_by_role("button", name=name, exact=True))
        return found.filter(visible=True)

    def slider(self, label: str = "Smile") -> Locator:
        return self.page.get_by_label(label, exact=True)

    def value(self, label: str = "Smile") -> str:
        return self.slider(label).locator("xpath=..").locator("output").inner_text()

    def reading(self, label: str = "Smile") -> float:
        """What the page says that the face reads."""
        text = self.slider(label).locator("xpath=..").locator(".reading").inner_text()
        return float(text.removeprefix("reads ").replace("\N{MINUS SIGN}", "-"))

    def press_slider(self, share: float, label: str = "Smile") -> None:
        """Take the slider's thumb and move it to a share of the rail; do not let go."""
        slider = self.slider(label)
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box
        where = slider.evaluate("s => (s.valueAsNumber - s.min) / (s.max - s.min)")
        thumb = 18
        x = [box["x"] + thumb / 2 + at * (box["width"] - thumb) for at in (where, share)]
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(x[0], y)
        self.page.mouse.down()
        self.page.mouse.move(x[1], y, steps=8)

    def drag(self, share: float, label: str = "Smile") -> None:
        """Drag a slider to a share of its rail, and wait for the picture to rest."""
        self.press_slider(share, label)
        self.page.mouse.up()
        self.rest()

    def rest(self) -> None:
        """Wait until the picture that is shown is the one asked for."""
        expect(self.page.locator("#picture")).to_have_attribute("aria-busy", "false")

    def pixels(self, canvas: str = AFTER) -> np.ndarray:
        """What a canvas of the page shows, (height, width, 3)."""
        data = self.page.locator(canvas).evaluate("c => c.toDataURL()")
        return _decoded(base64.b64decode(data.partition(",")[2]))

    def seen(self) -> np.ndarray:
        """The picture as it lies on the screen, divider and all."""
        return _decoded(self.page.locator("#picture").screenshot())

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what only a look at the page can tell."""
        for _ in range(1000):
            if condition():
                return
            self.page.evaluate("() => new Promise(requestAnimationFrame)")
        raise AssertionError("the page did not come to it")


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, in 8-bit levels."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())
