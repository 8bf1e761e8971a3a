"""Images and labels from disk: folders, tar packs, CSV label tables."""

import csv
import logging
import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def find_packs(path: Path, resolution: int, split: str) -> list[Path]:
    """The sources of a split under `path`: a tar pack or a folder of images is itself; in a folder
    of packs, those named `*{resolution}-{split}*.tar`.

    Raises FileNotFoundError, saying what was looked for.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_file() or not any(path.glob("*.tar")):
        return [path]
    packs = sorted(path.glob(f"*{resolution}-{split}*.tar"))
    if not packs:
        raise FileNotFoundError(f"no pack named *{resolution}-{split}*.tar in {path}")
    return packs


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every image file in a folder or tar pack, one at a time."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    with tarfile.open(source) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file and Path(member.name).suffix.lower() in SUFFIXES:
                yield member.name.removeprefix("./"), file.read()


def stream(sources: Iterable[Path], resolution: int) -> Iterator[tuple[str, Tensor]]:
    """(name, uint8 image (3, resolution, resolution)) of every readable image; others are cut to
    a centred square and resized. An unreadable file is named in the log, counted and skipped.

    Raises ValueError where there was no readable image.
    """
    read = broken = 0
    for source in sources:
        for name, data in _files(source):
            try:
                image = Image.open(BytesIO(data)).convert("RGB")
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                log.warning("skipped %s: %s", name, error)
                broken += 1
                continue
            if image.size != (resolution, resolution):
                image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
            read += 1
            yield name, torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    if broken:
        log.warning("%d of %d images could not be read", broken, broken + read)
    if not read:
        raise ValueError(f"no readable image in {', '.join(map(str, sources))}")


def batches(
    sources: Iterable[Path], resolution: int, size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """`stream` in batches of `size`: (names, uint8 (B, 3, resolution, resolution))."""
    rest = stream(sources, resolution)
    while batch := list(islice(rest, size)):
        names, images = zip(*batch, strict=True)
        yield list(names), torch.stack(images)


def load(sources: Iterable[Path], resolution: int) -> tuple[list[str], Tensor]:
    """Every image at once: names, uint8 (N, 3, resolution, resolution)."""
    names, images = zip(*stream(sources, resolution), strict=True)
    return list(names), torch.stack(images)


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV label table by their `file` column.

    Raises ValueError where there is none, or where a file stands in two rows.
    """
    rows: dict[str, dict[str, str]] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if "file" not in (reader.fieldnames or []):
            raise ValueError(f"{path} has no column 'file'; it has {reader.fieldnames}")
        for row in reader:
            name = row.pop("file")
            if name in rows:
                raise ValueError(f"{path}, line {reader.line_num}: a second row for {name}")
            rows[name] = row
    return rows


def grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (N, C, H, W) as one picture, row by row."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.zeros(channels, rows * height, columns * width, dtype=torch.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        sheet[:, y : y + height, x : x + width] = image
    pixels = sheet.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
