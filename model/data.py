"""Images and labels from disk: folders, tar packs, CelebA; label tables, classes."""

import csv
import logging
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

Split = Literal["train", "val"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def _members(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, a call that reads it) of every image file in a folder or tar pack."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes
    elif source.suffix.lower() in SUFFIXES:
        yield source.name, source.read_bytes
    else:
        with tarfile.open(source) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file and Path(member.name).suffix.lower() in SUFFIXES:
                    yield member.name.removeprefix("./"), file.read


@contextmanager
def _whole(source: Path) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise ValueError(f"{source} is no folder and no whole tar pack: {error}") from error


@dataclass(frozen=True)
class Images:
    """The images of one split. Iterating reads them one at a time, as (name, uint8 image
    (3, resolution, resolution)); other sizes are cut to a centred square and resized. An
    unreadable file is named in the log, counted and skipped; none readable is a ValueError."""

    sources: tuple[Path, ...]  # folders, tar packs, single images
    resolution: int
    keep: Callable[[str], bool] = bool  # every name
    square: int | None = None  # side of the square that is cut, pixels; without it the largest

    @classmethod
    def find(
        cls, path: Path, resolution: int, split: Split, validation: Path | None = None
    ) -> "Images":
        """A split of what is at `path`: a folder of images (subfolders and all), a tar pack, a
        folder of packs, or CelebA as it is downloaded.

        The validation images are those at `validation`; without it, in a folder of packs, the
        packs named `*{resolution}-val*.tar` (and to train, `*{resolution}-train*.tar`); else one
        image in twenty, chosen by its name.

        CelebA is a folder with `img_align_celeba/` and `list_eval_partition.txt`, whose first two
        parts are the splits (its test part is in neither). Of its aligned pictures, 178 x 218
        pixels, the centred 148 x 148 are taken, as Real NVP (Dinh et al. 2017) and many after it
        do.

        Raises FileNotFoundError, saying what was looked for, and ValueError for images that
        CelebA's partition does not name.
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
        if (chosen / CELEBA_PARTITION).exists():
            part = read_partition(chosen / CELEBA_PARTITION)
            images = cls((chosen / CELEBA_IMAGES,), resolution, square=CELEBA_SQUARE)
            check_rows(images.names(), part, chosen / CELEBA_PARTITION)
            return replace(images, keep=lambda name: part[name] == split)
        if validation:
            return cls((chosen,), resolution)
        return cls((chosen,), resolution, lambda name: _held_out(name) == (split == "val"))

    def among(self, names: Collection[str]) -> "Images":
        """Those of the split that have one of the names."""
        return replace(self, keep=lambda name: self.keep(name) and name in names)

    def names(self) -> list[str]:
        """The names of the split's image files, none of them read, so broken ones too."""
        names = []
        for source in self.sources:
            with _whole(source):
                names += [name for name, _ in _members(source) if self.keep(name)]
        return names

    def _files(self) -> Iterator[tuple[str, bytes]]:
        for source in self.sources:
            with _whole(source):
                for name, read in _members(source):
                    if self.keep(name):
                        yield name, read()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        read = broken = 0
        for name, data in self._files():
            try:
                image = Image.open(BytesIO(data)).convert("RGB")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                log.warning("skipped %s: %s", name, error)
                broken += 1
                continue
            read += 1
            yield name, torch.from_numpy(np.array(self._fit(image))).permute(2, 0, 1).contiguous()
        if broken:
            log.warning("%d of %d images could not be read", broken, broken + read)
        if not read:
            left = len(replace(self, keep=bool).names()) - broken
            raise ValueError(
                f"no readable image in {', '.join(map(str, self.sources))}"
                + (f"; {left} are of the other split (name --validation)" if left else "")
            )

    def _fit(self, image: Image.Image) -> Image.Image:
        if self.square:
            x, y = (image.width - self.square) // 2, (image.height - self.square) // 2
            image = image.crop((x, y, x + self.square, y + self.square))
        size = (self.resolution, self.resolution)
        return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)

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


CELEBA_IMAGES, CELEBA_SQUARE = "img_align_celeba", 148
CELEBA_ATTRIBUTES, CELEBA_PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"


def read_partition(path: Path) -> dict[str, str]:
    """The part (train, val or test) of each image, from CelebA's `list_eval_partition.txt`.

    Raises ValueError naming the line that is no image and part.
    """
    parts = {"0": "train", "1": "val", "2": "test"}
    partition = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match line.split():
            case [name, part] if part in parts:
                partition[name] = parts[part]
            case _:
                raise ValueError(f"{path}, line {number}: no image and part, but {line!r}")
    return partition


def check_rows(names: Iterable[str], rows: Collection[str], table: Path | str) -> None:
    """Raises ValueError where images have no row, naming them and the rows that have no image.
    Such rows alone are no error: one table may serve several sets."""
    seen = set(names)
    missing = sorted(name for name in seen if name not in rows)
    if missing:
        spare = sorted(set(rows) - seen)
        raise ValueError(
            f"{table} does not match the images: {_some(missing, 'images without a row')}"
            + (f"; {_some(spare, 'rows without an image')}" if spare else "")
        )


def _some(names: list[str], what: str) -> str:
    return f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


@dataclass(frozen=True)
class Labels:
    """A label table: a number for each image in each column, NaN where it is not known."""

    columns: list[str]
    rows: dict[str, NDArray[np.float64]]  # by file, (columns,)

    @cached_property
    def cuts(self) -> NDArray[np.float64]:
        """(columns, 2): an image at or below the first has an attribute not, one at or above the
        second has it. In columns of -1 and 1 or 0 and 1 these are the two values (0 beside -1 is
        in between). Any other column is graded: its cuts part the lower and the upper third of
        the table's values from the middle third."""
        values = np.array([*self.rows.values()]).reshape(len(self.rows), len(self.columns))
        return np.array([_cuts(column[~np.isnan(column)]) for column in values.T]).reshape(-1, 2)

    def signs(self, names: list[str], columns: list[str]) -> Tensor:
        """1 (has it), -1 (has it not) or 0 (in between or unknown, left out) of each image in each
        column, (images, columns), float64.

        Raises ValueError naming the images without a row, or the columns that are not there.
        """
        chosen, values = self._chosen(names, columns)
        low, high = self.cuts[chosen].T
        return torch.from_numpy(np.where(values <= low, -1.0, np.where(values >= high, 1.0, 0.0)))

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """(columns, 2): mean and deviation of each column's known values."""
        found = []
        values = np.array([*self.rows.values()]).reshape(len(self.rows), len(self.columns))
        for column in values.T:
            known = column[~np.isnan(column)]
            found.append((known.mean(), known.std()) if len(known) else (0.0, 0.0))
        return np.array(found).reshape(-1, 2)

    def grades(self, names: list[str], columns: list[str]) -> Tensor:
        """How far each image lies from the table's mean in each column, in the column's deviations,
        and 0 where it is not known, (images, columns), float64.

        Raises ValueError as `signs` does.
        """
        chosen, values = self._chosen(names, columns)
        mean, deviation = self.spread[chosen].T
        return torch.from_numpy(np.nan_to_num((values - mean) / np.where(deviation, deviation, 1)))

    def reaching(self, column: str, least: float) -> set[str]:
        """The images with so much in a column, or more.

        Raises ValueError where there is no such column.
        """
        _, values = self._chosen(list(self.rows), [column])
        return {name for name, (value,) in zip(self.rows, values, strict=True) if value >= least}

    def _chosen(
        self, names: list[str], columns: list[str]
    ) -> tuple[list[int], NDArray[np.float64]]:
        """The places of the columns, and their values for each image."""
        missing = [name for name in names if name not in self.rows]
        if missing:
            raise ValueError(f"the label table leaves out {_some(missing, 'images')}")
        absent = [column for column in columns if column not in self.columns]
        if absent:
            raise ValueError(
                f"the label table has no column of numbers {', '.join(absent)}; "
                f"it has {', '.join(self.columns)}"
            )
        chosen = [self.columns.index(column) for column in columns]
        return chosen, np.array([self.rows[name][chosen] for name in names])


def _cuts(known: NDArray[np.float64]) -> tuple[float, float]:
    values = set(known.tolist())
    if values <= {-1, 0, 1}:
        return (0, 1) if 0 in values and -1 not in values else (-1, 1)
    low, high = np.quantile(known, (1 / 3, 2 / 3)).tolist()
    return low, high


def read_labels(path: Path) -> Labels:
    """A CSV label table, its rows by their `file` column, or CelebA's `list_attr_celeba.txt`.
    A column with any text in it is left out, which the log says of those that hold numbers too.
    Where a file stands in two rows, which the log names, the values that differ are left unknown.

    Raises ValueError where there is no such column, or a row is not as long as the header.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".txt":
            file.readline()  # the number of rows
            header = ["file", *file.readline().split()]
            lines: Iterator[list[str]] = (line.split() for line in file)
        else:
            lines = csv.reader(file)
            header = next(lines, [])
        if "file" not in header:
            raise ValueError(f"{path} has no column 'file'; it has {header}")
        at = header.index("file")
        columns = header[:at] + header[at + 1 :]
        text: dict[int, str] = {}  # the first of each column
        rows: dict[str, NDArray[np.float64]] = {}
        for number, line in enumerate(lines, 2 if path.suffix != ".txt" else 3):
            if not line:
                continue
            if len(line) != len(header):
                raise ValueError(f"{path}, line {number}: not as long as the header")
            name = line.pop(at)
            row = np.array([_number(value) for value in line])
            for i in np.flatnonzero(np.isnan(row)).tolist():
                if line[i].strip():
                    text.setdefault(i, f"line {number}: {line[i]!r}")
            if name in rows:
                log.warning("%s, line %d: a second row for %s", path, number, name)
                row[row != rows[name]] = np.nan
            rows[name] = row
    for i, where in text.items():
        if not all(np.isnan(row[i]) for row in rows.values()):
            log.warning("%s, column %s is left out for the text on %s", path, columns[i], where)
    numbers = [i for i in range(len(columns)) if i not in text]
    return Labels([columns[i] for i in numbers], {name: row[numbers] for name, row in rows.items()})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def find_labels(path: Path, names: list[str]) -> Labels | None:
    """The labels that images bring of their own: the attributes of the CelebA at `path`, or the
    outermost folder of each name as its class. Classes make a column each, against the rest; two
    of them make one column, the later by name. None where there are neither, as where an image
    lies in no subfolder."""
    if (path / CELEBA_ATTRIBUTES).exists():
        return read_labels(path / CELEBA_ATTRIBUTES)
    classes = class_names(names)
    if not classes:
        return None
    columns = classes if len(classes) > 2 else classes[1:]
    row = {of: np.array([1.0 if of == column else -1.0 for column in columns]) for of in classes}
    return Labels(columns, {name: row[_folder(name)] for name in names})


def class_names(names: list[str]) -> list[str]:
    """The classes that images belong to, by the outermost folder of each name, sorted; none where
    an image lies in no subfolder, or all in one."""
    if not all("/" in name for name in names):
        return []
    classes = sorted(set(map(_folder, names)))
    return classes if len(classes) > 1 else []


def classes_of(names: list[str], classes: list[str]) -> Tensor:
    """Which of `classes` each image is of, int64 (images,).

    Raises ValueError naming the images of another.
    """
    strangers = [name for name in names if _folder(name) not in classes]
    if strangers:
        raise ValueError(f"{_some(strangers, 'images')} are of none of {', '.join(classes)}")
    return torch.tensor([classes.index(_folder(name)) for name in names])


def _folder(name: str) -> str:
    return name.split("/")[0]


def write_pack(images: Images, path: Path) -> int:
    """A tar pack of images at their resolution, and how many it holds. Each keeps its name, so
    that label tables go on matching, and the kind of file it names (JPEG at quality 95, all else
    without loss); written in one step, the same bytes every time.
    """
    count = 0
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w") as tar:
        for count, (name, image) in enumerate(images, 1):  # noqa: B007
            content = BytesIO()
            kind = Image.registered_extensions()[Path(name).suffix.lower()]
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            lossy = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
            picture.save(content, kind, **lossy)
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
    part.replace(path)
    return count


def spread(length: int, count: int) -> Tensor:
    """So many places of a list, or all, from all over it: images are often sorted by source."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def black_and_white(shape: Sequence[int], bins: int, generator: torch.Generator) -> Tensor:
    """Pictures of noise (uint8) whose every value is the least or the greatest: no picture is less
    like a face, and none harder to give back."""
    drawn = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return (drawn < 0.5).to(torch.uint8) * (bins - 1)


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
