import io
import struct

import numpy as np
import pytest
from PIL import Image

from app import photos
from app.errors import Problem
from tests.helpers import encoded, pixels_of

LIMIT = 1_000_000
GRADIENT = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)[:, :, None] + np.array(
    [0, 50, 100], np.uint8
)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def read(data: bytes) -> np.ndarray:
    return photos.read(data, LIMIT)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(format: str) -> None:
    assert (read(encoded(GRADIENT, format)) == GRADIENT).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_formats_keep_the_picture(format: str) -> None:
    difference = read(encoded(GRADIENT, format)).astype(int) - GRADIENT
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, GRADIENT),
        (2, GRADIENT[:, ::-1]),
        (3, GRADIENT[::-1, ::-1]),
        (4, GRADIENT[::-1]),
        (5, GRADIENT.transpose(1, 0, 2)),
        (6, np.rot90(GRADIENT, -1)),
        (7, GRADIENT[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(GRADIENT)),
        (99, GRADIENT),
    ],
)
def test_exif_orientation_is_applied(orientation: int, turned: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (read(encoded(GRADIENT, "PNG", exif=exif)) == turned).all()


def test_16_bit_grey_is_scaled_to_8() -> None:
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    grey = read(encoded(deep))
    assert grey.shape == (64, 64, 3)
    assert np.abs(grey[:, :, 0] - deep / 257).max() <= 0.5


def test_cmyk_and_palette_become_rgb() -> None:
    picture = Image.fromarray(GRADIENT)
    for mode, format in (("CMYK", "TIFF"), ("P", "PNG"), ("L", "PNG"), ("1", "PNG")):
        out = io.BytesIO()
        picture.convert(mode).save(out, format)
        assert read(out.getvalue()).shape == GRADIENT.shape


def test_transparency_lies_on_white() -> None:
    clear = np.zeros((20, 20, 4), np.uint8)
    assert (read(encoded(clear)) == 255).all()


def test_animated_is_refused() -> None:
    out = io.BytesIO()
    frames = [Image.fromarray(np.roll(GRADIENT, i, 0)) for i in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(Problem, match="animated") as error:
        read(out.getvalue())
    assert error.value.status_code == 422


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"", 422, "empty-photograph"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not-a-photograph"),
        (b"%PDF-1.7 hello", 415, "not-a-photograph"),
        (encoded(NOISE)[:2000], 422, "damaged-photograph"),
        (encoded(NOISE, "JPEG")[:2000], 422, "damaged-photograph"),
        (encoded(GRADIENT[:1, :1]), 422, "photograph-too-small"),
    ],
    ids=["empty", "svg", "pdf", "truncated png", "truncated jpeg", "1x1"],
)
def test_what_is_no_photograph_is_refused(data: bytes, status: int, kind: str) -> None:
    with pytest.raises(Problem) as error:
        read(data)
    assert (error.value.status_code, error.value.kind) == (status, kind)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    bomb = bytearray(encoded(GRADIENT))
    bomb[16:24] = struct.pack(">II", 20_000, 20_000)  # only the header says so
    with pytest.raises(Problem) as error:
        read(bytes(bomb))
    assert error.value.status_code in (413, 415)  # 415 where the checksum is looked at first
    large = encoded(np.zeros((1001, 1000, 3), np.uint8))
    with pytest.raises(Problem, match="1000x1001") as error:
        read(large)
    assert error.value.status_code == 413


def test_png_is_exact_and_nothing_carries_metadata() -> None:
    assert (pixels_of(photos.write(GRADIENT, "png")) == GRADIENT).all()
    for format in ("png", "webp", "jpeg"):
        image = Image.open(io.BytesIO(photos.write(GRADIENT, format)))
        assert not image.getexif()
        assert not {"icc_profile", "exif", "comment", "xmp"} & image.info.keys()


def test_another_colour_space_is_converted_to_srgb() -> None:
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert read(encoded(GRADIENT, icc_profile=lab)).shape == GRADIENT.shape  # unfit: ignored
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(encoded(GRADIENT, icc_profile=srgb)) == GRADIENT).all()
