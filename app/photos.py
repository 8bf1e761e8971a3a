"""Bytes to pixels and back, safely: bounded, upright, sRGB, without metadata."""

import io
import struct
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.errors import Problem

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Format = Literal["png", "webp", "jpeg"]
Animation = Literal["gif", "webp"]

Image.init()  # registers every format, which opening by name needs
Image.MAX_IMAGE_PIXELS = None  # `read` has a bound of its own, and words for what is past it
ACCEPTED = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
IN_WORDS = "a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF photograph is accepted"
SMALLEST_SIDE = 16


def levels(bits: int) -> NDArray[np.uint8]:
    """What each value of fewer bits is on the scale of 8, (2**bits,)."""
    top = 2**bits - 1
    scaled: NDArray[np.uint8] = np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8)
    return scaled


def quantized(pixels: Pixels, bits: int) -> Pixels:
    """A crop as a model of so many bits gives it back: itself, where they are 8."""
    kept: Pixels = levels(bits)[pixels >> (8 - bits)]
    return kept


def through_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """The picture as a JPEG of a quality gives it back, its colours as fine as its light."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(out))


def read(data: bytes, max_pixels: int) -> Pixels:
    """The photograph as it should look: turned by its EXIF orientation, transparency on white,
    converted to sRGB.

    Raises Problem 415 for what is no picture, 422 for one that is damaged, animated or tiny, and
    413 for one of more than `max_pixels`.
    """
    if not data:
        raise Problem(422, "empty-photograph", f"The file is empty; {IN_WORDS}.")
    try:
        image = Image.open(io.BytesIO(data), formats=ACCEPTED)
    except (OSError, ValueError, SyntaxError) as error:
        raise Problem(
            415,
            "not-a-photograph",
            f"The file is not a readable picture, or too damaged to be one; {IN_WORDS}.",
        ) from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise Problem(
                413,
                "photograph-too-large",
                f"The photograph has {width}x{height} pixels; up to {max_pixels} are accepted.",
            )
        if min(width, height) < SMALLEST_SIDE:
            raise Problem(
                422,
                "photograph-too-small",
                f"The photograph has {width}x{height} pixels; each side must have "
                f"{SMALLEST_SIDE} or more.",
            )
        # an MPO is a JPEG that carries more pictures of the same scene
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise Problem(
                422, "animated", "The picture is animated; a photograph of one frame is accepted."
            )
        try:
            image.load()
            return np.asarray(_to_srgb(_upright(image)))
        except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
            raise Problem(
                422,
                "damaged-photograph",
                f"The photograph is damaged or incomplete; {IN_WORDS}.",
            ) from error


ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's exif_transpose writes the rest of the metadata anew, and fails where it is damaged
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return image  # broken metadata is no reason to refuse the picture
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    if profile and image.mode in ("RGB", "CMYK", "L"):
        image = _through_profile(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _through_profile(image: Image.Image, data: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a broken profile is no reason to refuse the picture
    return converted or image


def _to_8_bit(image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        values = values * 255
    elif values.max(initial=0) > 255:
        values = values / 257  # 65535 is white
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def write(pixels: Pixels, format: Format) -> bytes:
    """The picture in a format, with no metadata; PNG is exact, WebP and JPEG of high quality."""
    if format == "png":  # OpenCV's takes a third of the time of Pillow's, and photographs less room
        _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return data.tobytes()
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    match format:
        case "webp":
            image.save(out, "WEBP", quality=92, method=2)
        case "jpeg":
            image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


FRAME_MS = 90


def reduced(pixels: Pixels, side: int) -> Pixels:
    """The picture with no side longer than `side` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def animate(frames: list[Pixels], format: Animation) -> bytes:
    """The frames from first to last and back, for ever."""
    out = io.BytesIO()
    first, *rest = (Image.fromarray(pixels) for pixels in (*frames, *frames[-2:0:-1]))
    first.save(
        out, format, save_all=True, append_images=rest, duration=FRAME_MS, loop=0, quality=85
    )
    return out.getvalue()
