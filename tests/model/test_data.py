"""Images and labels from disk."""

import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from model.__main__ import app
from model.data import Images, Labels, Split, check_rows, find_labels, grid, read_labels, write_pack

WritePictures = Callable[..., list[Path]]

SIZE = 32


def load(*sources: Path) -> tuple[list[str], torch.Tensor]:
    names, images = zip(*Images(sources, SIZE), strict=True)
    return list(names), torch.stack(images)


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def png(size: tuple[int, int] = (SIZE, SIZE), colour: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def png_of_many_chunks() -> bytearray:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return bytearray(buffer.getvalue())


def png_with_a_broken_chunk() -> bytes:
    whole = png_of_many_chunks()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    whole[second : second + 4] = bytes(4)
    return bytes(whole)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("./faces.png")  # a folder by an unlucky name
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


BROKEN = {
    "empty": b"",
    "text": b"no image",
    "truncated": png()[:60],
    "truncated in the middle": bytes(png_of_many_chunks()[:40_000]),
    "broken chunk": png_with_a_broken_chunk(),
}


class TestSources:
    def test_a_folder_is_read_in_order(self, tmp_path: Path, write_pictures: WritePictures) -> None:
        paths = write_pictures(tmp_path, 5)
        names, images = load(tmp_path)
        assert names == ["000.png", "001.png", "002.png", "003.png", "004.png"]
        assert images.dtype == torch.uint8
        assert images.shape == (5, 3, SIZE, SIZE)
        assert all(map(torch.equal, images, map(pixels, paths)))

    def test_nested_folders(self, tmp_path: Path, write_pictures: WritePictures) -> None:
        write_pictures(tmp_path / "b", 1)
        write_pictures(tmp_path / "a" / "deep", 2)
        names, _ = load(tmp_path)
        assert names == ["a/deep/000.png", "a/deep/001.png", "b/000.png"]

    def test_only_images_count(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / "LOUD.PNG").write_bytes(png())
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "folder.png" / "inside.png").write_bytes(png())
        names, _ = load(tmp_path)
        assert names == ["LOUD.PNG", "folder.png/inside.png"]

    @pytest.mark.parametrize(
        ("suffix", "kind"),
        [("jpg", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("bmp", "BMP")],
    )
    def test_kinds_of_file(self, tmp_path: Path, suffix: str, kind: str) -> None:
        Image.new("RGB", (SIZE, SIZE), (200, 100, 50)).save(tmp_path / f"a.{suffix}", kind)
        _, images = load(tmp_path)
        colour = images[0].float().mean(dim=(1, 2))
        torch.testing.assert_close(colour, torch.tensor([200.0, 100.0, 50.0]), rtol=0, atol=4)

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
    def test_every_mode_becomes_three_channels(self, tmp_path: Path, mode: str) -> None:
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new("RGB", (SIZE, SIZE), "white").convert(mode).save(tmp_path / f"a.{suffix}")
        _, images = load(tmp_path)
        assert images.shape == (1, 3, SIZE, SIZE)
        assert (images == 255).all()

    def test_a_pack(self, tmp_path: Path) -> None:
        files = {"./b.png": png(colour="red"), "a.png": png(colour="lime"), "labels.csv": b"file"}
        names, images = load(pack(tmp_path / "pack.tar", files))
        assert names == ["b.png", "a.png"]
        assert images[0, :, 0, 0].tolist() == [255, 0, 0]
        assert images[1, :, 0, 0].tolist() == [0, 255, 0]

    def test_packs_follow_one_another(self, tmp_path: Path) -> None:
        first = pack(tmp_path / "0.tar", {"a.png": png()})
        second = pack(tmp_path / "1.tar", {"b.png": png()})
        assert load(first, second)[0] == ["a.png", "b.png"]

    def test_batches(self, tmp_path: Path, write_pictures: WritePictures) -> None:
        write_pictures(tmp_path, 5)
        batches = list(Images((tmp_path,), SIZE).batches(2))
        assert [names for names, _ in batches] == [
            ["000.png", "001.png"],
            ["002.png", "003.png"],
            ["004.png"],
        ]
        assert [len(images) for _, images in batches] == [2, 2, 1]
        assert torch.equal(torch.cat([images for _, images in batches]), load(tmp_path)[1])


class TestSize:
    def test_others_are_cut_to_a_centred_square(self, tmp_path: Path) -> None:
        wide = Image.new("RGB", (3 * SIZE, SIZE), "red")
        wide.paste("lime", (SIZE, 0, 2 * SIZE, SIZE))
        wide.save(tmp_path / "wide.png")
        _, images = load(tmp_path)
        assert images.shape == (1, 3, SIZE, SIZE)
        assert (images[0, 1] == 255).all()
        assert (images[0, 0] == 0).all()

    @pytest.mark.parametrize("size", [(SIZE // 2, SIZE // 2), (4 * SIZE, 4 * SIZE), (5, 77)])
    def test_others_are_resized(self, tmp_path: Path, size: tuple[int, int]) -> None:
        (tmp_path / "a.png").write_bytes(png(size, "red"))
        _, images = load(tmp_path)
        assert images.shape == (1, 3, SIZE, SIZE)
        assert (images[0, 0] == 255).all()


class TestBroken:
    @pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
    def test_is_skipped_counted_and_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
    ) -> None:
        (tmp_path / "a.png").write_bytes(png())
        (tmp_path / "broken.png").write_bytes(content)
        (tmp_path / "z.png").write_bytes(png())
        with caplog.at_level(logging.WARNING):
            names, images = load(tmp_path)
        assert names == ["a.png", "z.png"]
        assert len(images) == 2
        assert any("broken.png" in message for message in caplog.messages)
        assert "1 of 3 images could not be read" in caplog.messages

    def test_in_a_pack(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        source = pack(tmp_path / "p.tar", {"broken.png": png()[:60], "a.png": png()})
        assert load(source)[0] == ["a.png"]
        assert any("broken.png" in message for message in caplog.messages)

    def test_nothing_is_said_where_nothing_is_broken(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "a.png").write_bytes(png())
        load(tmp_path)
        assert not caplog.messages

    def test_none_readable(self, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"")
        with pytest.raises(ValueError, match=f"no readable image in {tmp_path}"):
            load(tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no readable image"):
            load(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"no tar at all", png(), bytes(2000)],
        ids=["empty", "text", "png", "zeros"],
    )
    def test_a_file_that_is_no_pack(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "pack.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"pack\.tar"):
            load(tmp_path / "pack.tar")

    def test_a_pack_cut_short(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "pack.tar", {"a.png": png(), "b.png": bytes(png_of_many_chunks())})
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=r"pack\.tar"):
            load(tmp_path / "pack.tar")


class TestFind:
    @pytest.fixture
    def packs(self, tmp_path: Path) -> Path:
        for name in (
            "faces64-train-01",
            "faces64-train-00",
            "faces64-val",
            "faces128-train",
            "faces128-val",
        ):
            pack(tmp_path / "packs" / f"{name}.tar", {f"{name}.png": png()})
        return tmp_path / "packs"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "folder"
        folder.mkdir()
        for i in range(400):
            (folder / f"{i:03d}.png").touch()
        return folder

    @staticmethod
    def kept(folder: Path, split: Split, validation: Path | None = None) -> set[str]:
        images = Images.find(folder, SIZE, split, validation)
        return {path.name for path in folder.iterdir() if images.keep(path.name)}

    @pytest.mark.parametrize(
        ("resolution", "split", "found"),
        [
            (64, "train", ["faces64-train-00.tar", "faces64-train-01.tar"]),
            (64, "val", ["faces64-val.tar"]),
            (128, "train", ["faces128-train.tar"]),
        ],
    )
    def test_a_split_of_a_folder_of_packs(
        self, packs: Path, resolution: int, split: Split, found: list[str]
    ) -> None:
        images = Images.find(packs, resolution, split)
        assert [path.name for path in images.sources] == found
        assert [name for name, _ in images] == [Path(name).stem + ".png" for name in found]

    @pytest.mark.parametrize("resolution", [4, 8, 28, 32])
    def test_a_resolution_is_a_whole_number(self, packs: Path, resolution: int) -> None:
        """8 is not the end of 128."""
        with pytest.raises(FileNotFoundError, match=rf"{resolution}-train.*{packs}"):
            Images.find(packs, resolution, "train")

    def test_a_missing_split(self, packs: Path) -> None:
        (packs / "faces64-val.tar").unlink()
        with pytest.raises(FileNotFoundError, match=rf"64-val.*{packs}"):
            Images.find(packs, 64, "val")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            Images.find(tmp_path / "nowhere", 64, "train")
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            Images.find(tmp_path, 64, "val", validation=tmp_path / "nowhere")

    def test_a_folder_of_images_is_parted_by_name(self, folder: Path) -> None:
        train, held_out = self.kept(folder, "train"), self.kept(folder, "val")
        assert not train & held_out
        assert train | held_out == {path.name for path in folder.iterdir()}
        assert 0.02 < len(held_out) / len(train) < 0.1

    def test_the_parting_is_the_same_in_every_run(self, folder: Path) -> None:
        assert sorted(self.kept(folder, "val"))[:5] == [
            *("005.png", "006.png", "068.png", "073.png", "074.png")
        ]

    def test_an_image_stays_in_its_split_when_others_join(self, folder: Path) -> None:
        before = self.kept(folder, "val")
        for i in range(400):
            (folder / f"{i:03d}-new.png").touch()
        assert before < self.kept(folder, "val")

    def test_a_folder_too_small_to_part_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "000.png").write_bytes(png())
        with pytest.raises(ValueError, match="validation"):
            list(Images.find(tmp_path, SIZE, "val"))

    def test_a_pack_is_parted_by_name_too(self, tmp_path: Path) -> None:
        names = [f"{i:02d}.png" for i in range(60)]
        path = pack(tmp_path / "pack.tar", {name: png((2, 2)) for name in names})
        train, held_out = (
            [name for name, _ in Images.find(path, 2, split)] for split in ("train", "val")
        )
        assert held_out
        assert sorted(train + held_out) == names

    def test_validation_images_of_their_own(self, folder: Path, packs: Path) -> None:
        assert self.kept(folder, "train", validation=packs / "faces64-val.tar") == {
            path.name for path in folder.iterdir()
        }
        images = Images.find(folder, 64, "val", validation=packs)
        assert [path.name for path in images.sources] == ["faces64-val.tar"]


class TestCelebA:
    """A folder as it is downloaded: twelve pictures to train on, four to validate, four to test."""

    @pytest.fixture
    def celeba(self, tmp_path: Path) -> Path:
        folder = tmp_path / "celeba"
        (folder / "img_align_celeba").mkdir(parents=True)
        names = [f"{i:06d}.jpg" for i in range(1, 21)]
        for i, name in enumerate(names):
            picture = Image.new("RGB", (178, 218), "red")
            picture.paste((0, 10 * i, 200), (15, 35, 163, 183))
            picture.save(folder / "img_align_celeba" / name, quality=95, subsampling=0)
        rows = [
            f"{name} {'1' if i % 2 else '-1'} {'-1' if i % 3 else ' 1'}"
            for i, name in enumerate(names)
        ]
        (folder / "list_attr_celeba.txt").write_text(
            "\n".join(["20", "Smiling Wavy_Hair ", *rows]) + "\n"
        )
        parts = [f"{name} {0 if i < 12 else 1 if i < 16 else 2}" for i, name in enumerate(names)]
        (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
        return folder

    def test_its_partition_is_the_splits(self, celeba: Path) -> None:
        train, held_out = (Images.find(celeba, SIZE, split) for split in ("train", "val"))
        assert [name for name, _ in train] == [f"{i:06d}.jpg" for i in range(1, 13)]
        assert held_out.names() == [f"{i:06d}.jpg" for i in range(13, 17)]

    def test_its_middle_is_cut(self, celeba: Path) -> None:
        for i, (_, image) in enumerate(Images.find(celeba, 64, "train")):
            colour = torch.tensor([0.0, 10.0 * i, 200.0])[:, None, None].expand(3, 64, 64)
            assert (image - colour)[:, 2:-2, 2:-2].abs().max() < 8
            assert image[0].float().mean() < 20  # no more red than the edge blurs in

    def test_its_attributes_are_labels(self, celeba: Path) -> None:
        labels = find_labels(celeba, [])
        assert labels
        assert labels.columns == ["Smiling", "Wavy_Hair"]
        assert len(labels.rows) == 20
        signs = labels.signs(["000001.jpg", "000002.jpg", "000004.jpg"], labels.columns)
        assert signs.tolist() == [[-1, 1], [1, -1], [1, 1]]

    def test_an_image_without_a_part(self, celeba: Path) -> None:
        (celeba / "img_align_celeba" / "x.jpg").write_bytes(png())
        with pytest.raises(ValueError, match=r"partition\.txt.*1 images without a row: x\.jpg"):
            Images.find(celeba, SIZE, "train")

    @pytest.mark.parametrize("line", ["000001.jpg", "000001.jpg 3", "", "a b c"])
    def test_a_broken_partition(self, celeba: Path, line: str) -> None:
        (celeba / "list_eval_partition.txt").write_text(f"000001.jpg 0\n{line}\n")
        with pytest.raises(ValueError, match=r"partition\.txt, line 2"):
            Images.find(celeba, SIZE, "train")

    def test_a_row_of_another_length(self, celeba: Path) -> None:
        (celeba / "list_attr_celeba.txt").write_text("2\nSmiling Hat\na.jpg 1 1\nb.jpg 1\n")
        with pytest.raises(ValueError, match=r"celeba\.txt, line 4"):
            read_labels(celeba / "list_attr_celeba.txt")

    def test_packs(self, celeba: Path, tmp_path: Path) -> None:
        """From the download to a folder of packs, whose labels still match."""
        for split in ("train", "val"):
            arguments = ["pack", "--data", str(celeba), "--split", split, "--resolution", "16"]
            out = tmp_path / "packs" / f"faces16-{split}.tar"
            out.parent.mkdir(exist_ok=True)
            result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
            assert result.exit_code == 0, result.output
        for split in ("train", "val"):
            packed, loose = (Images.find(at, 16, split) for at in (tmp_path / "packs", celeba))
            assert packed.names() == loose.names()
            change = packed.load().float() - loose.load().float()
            assert change.abs().max() < 16
        labels = read_labels(celeba / "list_attr_celeba.txt")
        check_rows(packed.names(), labels.rows, "labels")


class TestPack:
    def test_keeps_names_and_kinds(self, tmp_path: Path) -> None:
        for name, kind in (("a.png", "PNG"), ("b/c.jpg", "JPEG"), ("d.webp", "WEBP")):
            path = tmp_path / "faces" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 48), (200, 100, 50)).save(path, kind)
        images = Images((tmp_path / "faces",), 16)
        assert write_pack(images, tmp_path / "p.tar") == 3
        with tarfile.open(tmp_path / "p.tar") as tar:
            found = {m.name: Image.open(tar.extractfile(m) or io.BytesIO()) for m in tar}
            assert {name: (image.format, image.size) for name, image in found.items()} == {
                "a.png": ("PNG", (16, 16)),
                "b/c.jpg": ("JPEG", (16, 16)),
                "d.webp": ("WEBP", (16, 16)),
            }

    def test_loses_nothing_of_png_and_repeats(
        self, tmp_path: Path, write_pictures: WritePictures
    ) -> None:
        write_pictures(tmp_path / "faces", 4)
        images = Images((tmp_path / "faces",), SIZE)
        write_pack(images, tmp_path / "p.tar")
        assert torch.equal(load(tmp_path / "p.tar")[1], images.load())
        write_pack(images, tmp_path / "q.tar")
        assert (tmp_path / "p.tar").read_bytes() == (tmp_path / "q.tar").read_bytes()

    def test_leaves_out_the_broken(self, tmp_path: Path) -> None:
        source = pack(tmp_path / "p.tar", {"broken.png": png()[:60], "a.png": png()})
        assert write_pack(Images((source,), 16), tmp_path / "q.tar") == 1

    def test_no_such_split(self, tmp_path: Path) -> None:
        arguments = ["pack", "--data", str(tmp_path), "--out", "p.tar", "--split", "test"]
        assert "no split 'test'" in CliRunner().invoke(app, arguments).output


class TestClasses:
    @staticmethod
    def names(*folders: str) -> list[str]:
        return [f"{folder}/{i}.png" for folder in folders for i in range(2)]

    def test_a_column_a_class(self) -> None:
        labels = find_labels(Path("nowhere"), self.names("hat", "bare", "scarf"))
        assert labels
        assert labels.columns == ["bare", "hat", "scarf"]
        assert labels.signs(["hat/0.png"], labels.columns).tolist() == [[-1, 1, -1]]

    def test_two_classes_make_one_column(self) -> None:
        labels = find_labels(Path("nowhere"), self.names("smiling", "neutral"))
        assert labels
        assert labels.columns == ["smiling"]
        signs = labels.signs(["smiling/0.png", "neutral/1.png"], ["smiling"])
        assert signs.tolist() == [[1], [-1]]

    def test_neither_classes_nor_celeba(self) -> None:
        assert find_labels(Path("nowhere"), ["a.png", "b.png"]) is None
        assert find_labels(Path("nowhere"), ["one/a.png", "one/b.png"]) is None
        assert find_labels(Path("nowhere"), ["one/a.png", "two/b.png", "c.png"]) is None

    def test_subfolders_of_a_folder(self, tmp_path: Path, write_pictures: WritePictures) -> None:
        for name in ("no", "yes"):
            write_pictures(tmp_path / name, 2)
        images = Images((tmp_path,), SIZE)
        labels = find_labels(tmp_path, images.names())
        assert labels
        assert labels.signs([name for name, _ in images], ["yes"]).flatten().tolist() == [
            *(-1, -1, 1, 1)
        ]


def rows_of(labels: Labels) -> dict[str, dict[str, float | None]]:
    """The table as rows by file, None where a value is not known."""
    return {
        name: {
            column: None if np.isnan(value) else float(value)
            for column, value in zip(labels.columns, row, strict=True)
        }
        for name, row in labels.rows.items()
    }


class TestLabels:
    @staticmethod
    def table(tmp_path: Path, text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return path

    def test_rows_by_file(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, "smiling,file,older\n1,a.png,-1\n,b.png,0.5\n")
        assert rows_of(read_labels(path)) == {
            "a.png": {"smiling": 1, "older": -1},
            "b.png": {"smiling": None, "older": 0.5},
        }

    def test_columns_of_text_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.table(tmp_path, "file,source,older,hat\na.png,us,1,1\nb.png,uk,-1,l\n\n")
        assert rows_of(read_labels(path)) == {"a.png": {"older": 1}, "b.png": {"older": -1}}
        assert caplog.messages == [f"{path}, column hat is left out for the text on line 3: 'l'"]

    def test_no_column_of_files(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, "name,smiling\na.png,1\n")
        with pytest.raises(ValueError, match=rf"{path} has no column 'file'.*'name', 'smiling'"):
            read_labels(path)

    def test_an_empty_table(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no column 'file'"):
            read_labels(self.table(tmp_path, ""))

    def test_a_file_in_two_rows_keeps_what_they_agree_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.table(tmp_path, "file,smiling,older\na.png,1,1\nb.png,1,1\na.png,-1,1\n")
        assert rows_of(read_labels(path)) == {
            "a.png": {"smiling": None, "older": 1},
            "b.png": {"smiling": 1, "older": 1},
        }
        assert caplog.messages == [f"{path}, line 4: a second row for a.png"]

    def test_a_third_row_cannot_settle_what_two_dispute(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, "file,smiling\na.png,1\na.png,-1\na.png,1\n")
        assert rows_of(read_labels(path)) == {"a.png": {"smiling": None}}

    @pytest.mark.parametrize("row", ["b.png", "b.png,1", "b.png,1,1,1"])
    def test_a_row_of_another_length(self, tmp_path: Path, row: str) -> None:
        path = self.table(tmp_path, f"file,smiling,older\na.png,1,1\n{row}\n")
        with pytest.raises(ValueError, match=rf"{path}, line 3"):
            read_labels(path)

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, "\ufefffile,smiling\na.png,1\n")
        assert rows_of(read_labels(path)) == {"a.png": {"smiling": 1}}

    @pytest.mark.parametrize(
        ("values", "signs"),
        [
            (["1", "-1", "", "1.0"], [1, -1, 0, 1]),
            (["1", "0", "", "1"], [1, -1, 0, 1]),
            (["1", "0", "-1", ""], [1, 0, -1, 0]),
            (["1", "", "1", ""], [1, 0, 1, 0]),
            (["0.1", "0.9", "0.5", "0.2", "", "0.6", "0.8"], [-1, 1, 0, -1, 0, 0, 1]),
            (["0", "0", "0", "0", "5", "9"], [-1, -1, -1, -1, 1, 1]),
        ],
        ids=["minus one", "zero", "between", "only ones", "graded", "mostly the least"],
    )
    def test_signs(self, tmp_path: Path, values: list[str], signs: list[int]) -> None:
        """Of a graded column the upper third has it, the lower third has it not."""
        names = [f"{i}.png" for i in range(len(values))]
        rows = [f"{name},{value}," for name, value in zip(names, values, strict=True)]
        labels = read_labels(self.table(tmp_path, "\n".join(["file,a,b", *rows])))
        assert labels.signs(names, ["a"]).flatten().tolist() == signs
        assert labels.signs(names, ["b", "a"])[:, 0].abs().sum() == 0
        assert labels.signs(names, []).shape == (len(names), 0)

    def test_images_without_a_row_are_an_error(self) -> None:
        labels = Labels(["a"], {"0.jpg": np.array([1.0])})
        with pytest.raises(ValueError, match=r"leaves out 2 images: x\.jpg, y\.jpg"):
            labels.signs(["0.jpg", "x.jpg", "y.jpg"], ["a"])

    def test_a_column_that_is_not_there(self) -> None:
        labels = Labels(["a", "b"], {"0.jpg": np.array([1.0, 1.0])})
        with pytest.raises(ValueError, match=r"no column of numbers c; it has a, b"):
            labels.signs(["0.jpg"], ["a", "c"])

    def test_images_and_rows_that_do_not_match(self) -> None:
        rows = {f"{i}.jpg" for i in range(9)}
        check_rows(["1.jpg", "2.jpg"], rows, "t.csv")
        with pytest.raises(ValueError, match=r"t\.csv does not.*1 images without a row: 0\.png"):
            check_rows(["0.png", "1.jpg"], rows, "t.csv")
        with pytest.raises(ValueError, match=r"8 rows without an image: 0\.jpg, 2\.jpg, .*…"):
            check_rows(["0.png", "1.jpg"], rows, "t.csv")


class TestGrid:
    def test_rows_fill_from_the_left(self) -> None:
        images = torch.arange(1, 6, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 4)
        sheet = np.array(grid(images, columns=3))
        assert sheet.shape == (4, 12, 3)
        assert sheet[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]
        assert sheet[1::2, 3::4, 2].tolist() == [[1, 2, 3], [4, 5, 0]]

    def test_keeps_the_pixels(self) -> None:
        images = torch.randint(0, 256, (4, 3, 8, 8)).to(torch.uint8)
        sheet = torch.from_numpy(np.array(grid(images, columns=2))).permute(2, 0, 1)
        assert torch.equal(sheet[:, 8:, 8:], images[3])

    def test_one_channel(self) -> None:
        sheet = grid(torch.full((2, 1, 4, 4), 9, dtype=torch.uint8), columns=2)
        assert sheet.mode == "L"
        assert sheet.size == (8, 4)
