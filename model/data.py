"""Images and labels from disk: folders, tar packs, CSV label tables."""

import csv
import logging
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

Split = Literal["train", "val"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every image file in a folder or tar pack, one at a time."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file and Path(member.name).suffix.lower() in SUFFIXES:
                    yield member.name.removeprefix("./"), file.read()
    except tarfile.TarError as error:
        raise ValueError(f"{source} is no folder and no whole tar pack: {error}") from error


@dataclass(frozen=True)
class Images:
    """The images of one split. Iterating reads them one at a time, as (name, uint8 image
    (3, resolution, resolution)); other sizes are cut to a centred square and resized. An
    unreadable file is named in the log, counted and skipped; none readable is a ValueError."""

    sources: tuple[Path, ...]
    resolution: int
    keep: Callable[[str], bool] = bool  # every name

    @classmethod
    def find(
        cls, path: Path, resolution: int, split: Split, validation: Path | None = None
    ) -> "Images":
        """A split of what is at `path`: a folder of images, a tar pack, or a folder of packs.

        The validation images are those at `validation`; without it, in a folder of packs, the
        packs named `*{resolution}-val*.tar` (and to train, `*{resolution}-train*.tar`); else one
        image in twenty, chosen by its name.

        Raises FileNotFoundError, saying what was looked for.
        """
        chosen = validation if validation and split == "val" else path
        if not chosen.exists():
            raise FileNotFoundError(f"{chosen} does not exist")
        if chosen.is_dir() and any(chosen.glob("*.tar")):
            name = re.compile(rf"(.*\D)?{resolution}-{split}.*\.tar")
            packs = sorted(pack for pack in chosen.iterdir() if name.fullmatch(pack.name))
            if not packs:
                raise FileNotFoundError(f"no pack named *{resolution}-{split}*.tar in {chosen}")
            return cls(tuple(packs), resolution)
        if validation:
            return cls((chosen,), resolution)
        return cls((chosen,), resolution, lambda name: _held_out(name) == (split == "val"))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        read = broken = left = 0
        for source in self.sources:
            for name, data in _files(source):
                if not self.keep(name):
                    left += 1
                    continue
                try:
                    image = Image.open(BytesIO(data)).convert("RGB")
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    log.warning("skipped %s: %s", name, error)
                    broken += 1
                    continue
                size = (self.resolution, self.resolution)
                if image.size != size:
                    image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
                read += 1
                yield name, torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        if broken:
            log.warning("%d of %d images could not be read", broken, broken + read)
        if not read:
            raise ValueError(
                f"no readable image in {', '.join(map(str, self.sources))}"
                + (f"; {left} are of the other split (name --validation)" if left else "")
            )

    def batches(self, size: int) -> Iterator[tuple[list[str], Tensor]]:
        """(names, uint8 (B, 3, resolution, resolution)), `size` at a time."""
        rest = iter(self)
        while batch := list(islice(rest, size)):
            names, images = zip(*batch, strict=True)
            yield list(names), torch.stack(images)

    def load(self) -> Tensor:
        """Every image at once: uint8 (N, 3, resolution, resolution)."""
        return torch.stack([image for _, image in self])


def _held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 20 == 0


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV label table by their `file` column. Where a file stands in two rows, which
    the log names, the values that differ are left empty.

    Raises ValueError where there is no such column, or a row is not as long as the header.
    """
    rows: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if "file" not in (reader.fieldnames or []):
            raise ValueError(f"{path} has no column 'file'; it has {reader.fieldnames}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: not as long as the header")
            name = row.pop("file")
            if name in rows:
                log.warning("%s, line %d: a second row for %s", path, reader.line_num, name)
                row = {k: v if v == rows[name][k] else "" for k, v in row.items()}
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
