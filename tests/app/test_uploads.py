"""Uploads that are no good: each is answered in words, and none costs more memory than it may."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.app.test_api import assert_problem, upload
from tests.helpers import encoded, pixels_of, serving

GRADIENT = np.add.outer(np.arange(120), np.arange(160)).astype(np.uint8)[:, :, None] + np.array(
    [0, 60, 120], np.uint8
)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header, in order, claims a size that the file does not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def animated(format: str) -> bytes:
    frames = [Image.fromarray(np.roll(GRADIENT, 9 * i, 0)) for i in range(3)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "status", "kind", "word"),
    [
        (b"", 422, "empty-photograph", "empty"),
        (b"%PDF-1.7 and so on", 415, "not-a-photograph", "JPEG"),
        (b"<html>", 415, "not-a-photograph", "JPEG"),
        (encoded(GRADIENT, "JPEG")[:900], 422, "damaged-photograph", "incomplete"),
        (encoded(GRADIENT, "PNG")[:200], 422, "damaged-photograph", "incomplete"),
        (encoded(GRADIENT, "WEBP")[:300], 415, "not-a-photograph", "damaged"),
        (encoded(GRADIENT[:1, :1]), 422, "photograph-too-small", "1x1"),
        (png_of(10_000, 10_000), 413, "photograph-too-large", "10000x10000"),
        (png_of(2**31 - 1, 2**31 - 1), 413, "photograph-too-large", "40000000"),
        (animated("GIF"), 422, "animated", "one frame"),
        (animated("WEBP"), 422, "animated", "one frame"),
        (animated("PNG"), 422, "animated", "one frame"),
    ],
    ids=[
        "empty",
        "pdf",
        "html",
        "cut jpeg",
        "cut png",
        "cut webp",
        "1x1",
        "100 megapixels",
        "2^62 pixels",
        "gif",
        "webp",
        "apng",
    ],
)
def test_what_is_no_photograph_is_refused_in_words(
    client: TestClient, data: bytes, status: int, kind: str, word: str
) -> None:
    response = client.post("encode", files={"image": data}, data={"align": "none"})
    assert_problem(response, status, kind, word)


def deep_png() -> bytes:
    """16 bits a channel, RGB, which Pillow does not write."""
    import cv2

    done, data = cv2.imencode(".png", GRADIENT[:, :, ::-1].astype(np.uint16) * 257)
    assert done
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(GRADIENT).convert("CMYK"), "JPEG", quality=95),
        saved(Image.fromarray(GRADIENT).convert("CMYK"), "TIFF"),
        deep_png(),
        saved(Image.fromarray(GRADIENT).convert("P"), "PNG"),
        saved(Image.fromarray(GRADIENT).convert("RGBA"), "WEBP", lossless=True),
    ],
    ids=["cmyk jpeg", "cmyk tiff", "16-bit", "palette", "rgba"],
)
def test_unusual_photographs_are_taken_for_what_they_show(client: TestClient, data: bytes) -> None:
    sent = client.post("encode", files={"image": data}, data={"align": "none"})
    assert sent.status_code == 201, sent.text
    photo = client.post("edit", json={"latent_id": sent.json()["latent_id"], "output": "photo"})
    difference = np.abs(pixels_of(photo.content).astype(int) - GRADIENT)
    assert np.median(difference) < 30  # a palette of 216 colours is coarse


def test_a_photograph_turned_by_its_metadata_is_set_upright(
    client: TestClient, portrait: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    exif[0x8825] = {1: "N"}  # and knew where
    data = encoded(np.rot90(portrait), "JPEG", quality=95, exif=exif)
    sent = client.post("encode", files={"image": data}).json()
    assert sent["face"]["found"]
    box = sent["face"]["box"]
    assert box["x"] + box["size"] / 2 == pytest.approx(223, abs=12)
    for kind in ("image/jpeg", "image/png", "image/webp"):
        edit = {"latent_id": sent["latent_id"], "attributes": {"older": 0.5}, "output": "photo"}
        answer = client.post("edit", json=edit, headers={"accept": kind})
        image = Image.open(io.BytesIO(answer.content))
        assert image.size == (512, 512)
        assert not image.getexif()


def test_of_ten_faces_the_most_prominent_is_taken(client: TestClient, portrait: np.ndarray) -> None:
    face = Image.fromarray(portrait[20:220, 120:320])
    crowd = Image.new("RGB", (5 * 130 + 200, 2 * 130), "grey")
    for i in range(9):
        crowd.paste(face.resize((120, 120)), (i % 5 * 130, i // 5 * 130))
    crowd.paste(face, (5 * 130, 30))
    body = upload(client, np.asarray(crowd), "auto")
    box = body["face"]["box"]
    assert body["face"]["found"]
    assert box["x"] + box["size"] / 2 > 5 * 130
    assert len(body["others"]) == 9
    for other in body["others"]:  # each can be asked for
        square = other["box"]
        align = f"{square['x']},{square['y']},{square['size']},{other['angle']}"
        assert upload(client, np.asarray(crowd), align)["face"]["box"] == square


# What a browser, a phone or an attacker might send after an accident: files of generated pictures
# with bytes changed, lost, doubled or from elsewhere. The seed makes every run the same.

MUTANTS = 600
MAX_PIXELS = 250_000
# One photograph of MAX_PIXELS, in every form that it takes on its way (it is decoded, laid on
# white, converted, turned), with what the allocator keeps back; a picture that escapes the bound
# takes gigabytes.
MEMORY = 64 * 2**20


def mutants() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, GRADIENT.shape, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    originals = [
        (format, encoded(pixels, format, **options))
        for pixels in (GRADIENT, noise[:40, :50])
        for format, options in (
            ("JPEG", {"exif": exif}),
            ("JPEG", {"progressive": True}),
            ("PNG", {"exif": exif}),
            ("PNG", {"compress_level": 0}),
            ("WEBP", {"exif": exif}),
            ("WEBP", {"lossless": True}),
        )
    ]

    def flip(data: bytearray) -> bytes:
        for place in random.integers(0, len(data), random.integers(1, 20)):
            data[place] ^= 1 << random.integers(8)
        return bytes(data)

    def head(data: bytearray) -> bytes:
        """Where sizes, tables and checksums are."""
        for place in random.integers(0, min(200, len(data)), random.integers(1, 8)):
            data[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        return bytes(data)

    def cut(data: bytearray) -> bytes:
        return bytes(data[: random.integers(len(data))])

    def lose(data: bytearray) -> bytes:
        start = int(random.integers(len(data)))
        return bytes(data[:start] + data[start + int(random.integers(1, 300)) :])

    def double(data: bytearray) -> bytes:
        start, stop = sorted(random.integers(0, len(data), 2))
        return bytes(data[:stop] + data[start:])

    def graft(data: bytearray) -> bytes:
        _, other = originals[random.integers(len(originals))]
        start = int(random.integers(min(len(data), len(other))))
        return bytes(data[:start] + other[start:])

    def enlarge(data: bytearray) -> bytes:
        """A header that claims another size, with its checksum in order."""
        width, height = (int(2 ** random.uniform(0, 16)) for _ in range(2))
        if data[:4] == b"\x89PNG":
            data[16:24] = struct.pack(">II", width, height)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        elif data[:2] == b"\xff\xd8":
            frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
            data[frame + 5 : frame + 9] = struct.pack(">HH", min(height, 65535), min(width, 65535))
        else:
            data[24:30] = (width | height << 16).to_bytes(6, "little")
        return bytes(data)

    kinds: list[Callable[[bytearray], bytes]] = [flip, head, cut, lose, double, graft, enlarge]
    for i in range(MUTANTS):
        format, data = originals[i % len(originals)]
        kind = kinds[i % len(kinds)]
        yield f"{i} {format} {kind.__name__}", kind(bytearray(data))


def peak_memory(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def process_on(port: int) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PORT={port}".encode() in (process / "environ").read_bytes().split(b"\0"):
                return int(process.name)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    raise AssertionError(f"nobody has PORT={port}")


def test_mutated_files_are_taken_or_refused_within_the_memory(
    bundle_path: Path, tmp_path: Path
) -> None:
    settings = {"GLOW_BUNDLE": str(bundle_path), "GLOW_MAX_PIXELS": str(MAX_PIXELS)}
    answers: dict[str, int] = {}
    with (
        serving(tmp_path / "log", **settings) as url,
        httpx2.Client(base_url=f"{url}/api/v1/", timeout=60) as client,
    ):
        process = process_on(int(url.rsplit(":", 1)[1]))
        side = int(MAX_PIXELS**0.5)
        largest = np.zeros((side, side, 4), np.uint8)  # and legal: what may be taken
        for format in ("PNG", "WEBP"):
            body = {"align": "none"}
            sent = client.post("encode", files={"image": encoded(largest, format)}, data=body)
            assert sent.status_code == 201, sent.text
        before = peak_memory(process)
        for name, data in mutants():
            response = client.post("encode", files={"image": data}, data={"align": "none"})
            answers[name] = response.status_code
            if response.status_code != 201:
                problem = response.json()
                assert problem["detail"], name
                assert problem["type"].startswith("urn:glow-editor:"), name
        grown = peak_memory(process) - before
    assert len(answers) == MUTANTS
    assert set(answers.values()) <= {201, 413, 415, 422}, {
        name: status for name, status in answers.items() if status not in (201, 413, 415, 422)
    }
    assert {201, 413, 415, 422} <= set(answers.values())
    assert grown < MEMORY, f"{grown / 2**20:.0f} MiB more"
    assert "Traceback" not in (tmp_path / "log").read_text()
