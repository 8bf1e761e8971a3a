"""Figures of the evaluation against the plain way, and its report against what it promises."""

import base64
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from model import evaluate
from model.__main__ import app
from model.attributes import Attribute, directions_of, mean_difference, sum_up
from model.bundle import Bundle, Direction
from model.config import FlowConfig
from model.data import Labels, grid
from model.evaluate import (
    LEAN,
    STRANGE,
    TEMPERATURES,
    Edited,
    by_group,
    edits,
    noise,
    reconstruction,
    strengths,
    strip,
)
from model.flow import Flow, Latent
from model.probe import Probe, judge_images, train
from model.train import bits_per_dim

NAMES = [f"{i:02d}.png" for i in range(40)]
SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(10, 1)
LABELS = Labels(["left", "top"], dict(zip(NAMES, SIGNS.double().numpy(), strict=True)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Noise that is brighter on the left with the first sign and at the top with the second."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(80, 100, (40, 3, 16, 16), generator=generator).float()
    images[..., :8] += 25 * SIGNS[:, 0, None, None, None]
    images[..., :8, :] += 25 * SIGNS[:, 1, None, None, None]
    return images.to(torch.uint8)


@pytest.fixture(scope="module")
def flow() -> Flow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Flow(FlowConfig(resolution=16, steps=(1, 1), hidden=(4, 4))).requires_grad_(False)


@pytest.fixture(scope="module")
def bundle(flow: Flow, images: Tensor) -> Bundle:
    attributes = [Attribute(name, name.title(), "Look") for name in LABELS.columns]
    sums = sum_up(flow, [(NAMES, images)], LABELS, attributes)
    return Bundle("<toy>", flow, directions_of(sums, mean_difference(sums)))


@pytest.fixture(scope="module")
def probe(images: Tensor) -> Probe:
    return train(LABELS.columns, images, SIGNS, epochs=8, batch=10)


def direction_of(vector: Tensor, low: float = -1.0, high: float = 1.0) -> Direction:
    return Direction("left", "Left", "Look", vector, 1, 1, 0.0, 1.0, low, high)


class TestReconstruction:
    def test_is_exact(self, flow: Flow, images: Tensor) -> None:
        error, wrong = reconstruction(flow, images)
        assert error < 0.01
        assert wrong == 0

    def test_finds_what_does_not_come_back(self, images: Tensor) -> None:
        class Brightening(Flow):
            """Dark pictures come back brighter by 0.7 of a bin."""

            def decode(self, latent: Latent) -> Tensor:
                pictures = super().decode(latent)
                return pictures + 0.7 / 256 * (pictures.mean((1, 2, 3), keepdim=True) < 0.3)

        flow = Brightening(FlowConfig(resolution=16, steps=(1, 1), hidden=(4, 4)))
        error, wrong = reconstruction(flow, images)
        assert error == pytest.approx(0.7, abs=0.01)
        assert wrong == (images.float().add(0.5).div(256).mean((1, 2, 3)) < 0.3).sum() > 0


def test_noise_is_of_extremes_alone(flow: Flow) -> None:
    pictures = noise(flow)
    assert pictures.shape == (STRANGE, 3, 16, 16)
    assert pictures.unique().tolist() == [0, 255]
    assert 0.45 < (pictures > 0).float().mean() < 0.55
    assert len(pictures.unique(dim=0)) == STRANGE


class TestStrengths:
    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (-1.0, 1.0, [-1, 1]),
            (-0.5, 2.0, [-0.5, 1, 2]),
            (-1.5, 0.75, [-1.5, -1, 0.75]),
        ],
    )
    def test_stay_on_the_slider(self, low: float, high: float, expected: list[float]) -> None:
        assert strengths(direction_of(torch.zeros(1), low, high)) == expected


def edit(
    flow: Flow,
    probe: Probe,
    direction: Direction,
    strength: float,
    images: Tensor,
    deviations: Tensor,
) -> tuple[Edited, Tensor]:
    """Of images by their own latents."""
    with torch.no_grad():
        latents = flow.flatten(flow.encode(images))
    return evaluate.edit(flow, probe, direction, strength, images, latents, deviations)


class TestEdits:
    def test_the_probe_sees_them(self, bundle: Bundle, probe: Probe, images: Tensor) -> None:
        found = list(edits(bundle, probe, NAMES, images, LABELS))
        names = [(edited.attribute, edited.strength) for edited, *_ in found]
        assert names == [(n, s) for n in ("left", "top") for s in (-1.0, 1.0)]
        for edited, tried, succeeded in found:
            sign = SIGNS[:, LABELS.columns.index(edited.attribute)]
            assert (sign[tried] == -edited.strength).all()
            assert edited.before < 0.2
            assert edited.after == pytest.approx(succeeded.float().mean().item())
            assert edited.after > 0.8
            assert edited.moved > 0
            assert edited.others < 0.3
            assert edited.bursts == edited.shortened == 0

    def test_some_faces_are_from_all_over_their_order(
        self, bundle: Bundle, probe: Probe, images: Tensor
    ) -> None:
        for _, tried, _ in edits(bundle, probe, NAMES, images, LABELS, faces=3):
            assert len(tried) == 3
            assert tried[0] < 4
            assert tried[2] > 35

    def test_half_the_strength_moves_less(
        self, bundle: Bundle, probe: Probe, images: Tensor
    ) -> None:
        half, whole = (
            edit(
                bundle.flow,
                probe,
                bundle.directions[0],
                strength,
                images,
                torch.ones(2),
            )[0].moved
            for strength in (0.5, 1.0)
        )
        assert 0 < half < whole

    def test_movement_is_of_the_mean_logits(
        self, bundle: Bundle, probe: Probe, images: Tensor
    ) -> None:
        flow, direction = bundle.flow, bundle.directions[0]
        logits = judge_images(probe, images)
        found, succeeded = edit(flow, probe, direction, -0.5, images[:4], logits.std(0))
        z = flow.flatten(flow.encode(images[:4])) - 0.5 * direction.vector
        after = probe(flow.decode(flow.unflatten(z)).clamp(0, 1))
        moved = (after - logits[:4]).mean(0) / logits.std(0)
        assert found.moved == pytest.approx(-moved[0].item(), rel=1e-2)
        assert found.others == pytest.approx(abs(moved[1] / moved[0]).item(), rel=1e-2)
        assert torch.equal(succeeded, after[:, 0] < 0)

    def test_nothing_moves_at_no_distance(self, flow: Flow, probe: Probe, images: Tensor) -> None:
        still = direction_of(torch.zeros(flow.config.dimensions))
        found, _ = edit(flow, probe, still, 1.0, images, torch.ones(2))
        assert found.before == found.after
        for figure in (found.moved, found.border, found.cheeks, found.unequal):
            assert figure == pytest.approx(0, abs=1e-3)

    def test_grey_levels_of_border_and_cheeks(self, probe: Probe, flow: Flow) -> None:
        """Half of the faces darker; all ten grey levels brighter where they are moved."""
        images = torch.full((4, 3, 16, 16), 90, dtype=torch.uint8)
        images[:2] = 60
        z = flow.flatten(flow.encode(torch.stack([images[0], images[0] + 10])))
        found, _ = edit(
            flow,
            probe,
            direction_of(z[1] - z[0]),
            1.0,
            images,
            torch.ones(2),
        )
        assert found.border == pytest.approx(10 * 255 / 256, abs=0.05)
        assert found.cheeks == pytest.approx(10 * 255 / 256, abs=0.05)
        assert found.unequal == pytest.approx(0, abs=0.05)

    def test_a_step_that_bursts_is_shortened(self, probe: Probe, flow: Flow) -> None:
        images = torch.full((4, 3, 16, 16), 90, dtype=torch.uint8)
        images[:1] = 200
        z = flow.flatten(flow.encode(torch.stack([images[1], images[1] + 110])))
        found, _ = edit(
            flow,
            probe,
            direction_of(z[1] - z[0]),
            1.0,
            images,
            torch.ones(2),
        )
        assert found.shortened == 0.25
        assert found.bursts == 0

    def test_of_a_single_attribute_nothing_else_moves(self, flow: Flow, images: Tensor) -> None:
        probe = train(["left"], images, SIGNS[:, :1], epochs=1)
        moving = direction_of(torch.ones(flow.config.dimensions))
        assert edit(flow, probe, moving, 1.0, images, torch.ones(1))[0].others == 0


def test_groups_are_the_sides_of_their_columns() -> None:
    rows = {name: np.array([float(i % 2) * 2 - 1, 7.0]) for i, name in enumerate(NAMES)}
    labels = Labels(["older", "other"], rows)
    bits = torch.arange(40.0)
    tries = torch.full((40,), 2.0)
    successes = torch.tensor([0.0, 1.0] * 20)
    assert by_group(NAMES, labels, bits, tries, successes) == [
        ["older", "20", "20.000", "0.500"],
        ["not older", "20", "19.000", "0.000"],
    ]


def test_cosines() -> None:
    directions = [direction_of(torch.tensor(v)) for v in ([2.0, 0.0], [1.0, 1.0], [0.0, -3.0])]
    half = 1 / math.sqrt(2)
    expected = torch.tensor([[1, half, 0], [half, 1, -half], [0, -half, 1]], dtype=torch.float64)
    torch.testing.assert_close(evaluate.cosines(directions), expected)


def test_a_strip_runs_from_end_to_end_around_the_face(bundle: Bundle, images: Tensor) -> None:
    flow = bundle.flow
    direction = direction_of(bundle.directions[0].vector, low=-0.5, high=1.5)
    sheet = torch.from_numpy(np.array(strip(flow, direction, images[:2], steps=5)))
    tiles = sheet.permute(2, 0, 1).unflatten(1, (2, 16)).unflatten(3, (5, 16))
    z = flow.flatten(flow.encode(images[1:2]))
    for column, strength in enumerate((-0.5, -0.25, 0, 0.75, 1.5)):
        moved = flow.quantize(flow.decode(flow.unflatten(z + strength * direction.vector)))
        assert (tiles[:, 1, :, column].int() - moved[0].int()).abs().max() <= 1
    assert torch.equal(tiles[:, 0, :, 2], images[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, images: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "faces").mkdir()
    for name, image in zip(NAMES, images, strict=True):
        grid(image[None], 1).save(folder / "faces" / name)
    rows = [f"{name},{a:.0f},{b:.0f}" for name, (a, b) in LABELS.rows.items()]
    (folder / "labels.csv").write_text("\n".join(["file,left,top", *rows]))
    bundle.save(folder / "toy.safetensors")
    Bundle("bare", bundle.flow).save(folder / "bare.safetensors")
    return folder


class TestCommand:
    @staticmethod
    def run(folder: Path, bundle: str, *arguments: str) -> tuple[str, str]:
        """The output and the report."""
        faces = str(folder / "faces")
        command = ["evaluate", "--bundle", str(folder / bundle), "--data", faces]
        command += ["--validation", faces, "--out", str(folder / "report.html")]
        result = CliRunner().invoke(app, [*command, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output, (folder / "report.html").read_text()

    @staticmethod
    def pictures(page: str) -> list[Image.Image]:
        found = re.findall(r'src="data:image/png;base64,([^"]+)" alt="[^"]+"', page)
        return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]

    def test_with_labels(self, folder: Path, bundle: Bundle, images: Tensor) -> None:
        output, page = self.run(folder, "toy.safetensors", "--labels", str(folder / "labels.csv"))
        bits = bits_per_dim(bundle.flow, images)
        figure = f"{bits.mean():.4f} ± {bits.std() / math.sqrt(40):.4f}"
        leaning = f"{bits_per_dim(bundle.flow, images, lean=LEAN).mean():.4f}"
        for text in (output, page):
            assert figure in text
            assert leaning in text
            assert "images not reconstructed exactly" in text
        assert "pictures of noise not reconstructed exactly: 0 of 32" in output
        assert "<td>0 of 32</td>" in page
        assert "&lt;toy&gt;" in page
        assert "<toy>" not in page
        assert page.count("<td>left</td>") == 1 + 1 + 2  # directions, cosines, edits
        assert "AUC of the probe" in page
        assert page.count("<td>1.000</td>") >= 2
        sheets = self.pictures(page)
        assert [sheet.size for sheet in sheets] == [(8 * 16, 4 * 16)] * len(TEMPERATURES) + [
            (7 * 16, 5 * 16)
        ] * 2
        assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)

    def test_without_labels(self, folder: Path) -> None:
        _, page = self.run(folder, "toy.safetensors", "--faces", str(folder / "faces" / "03.png"))
        assert "<h2>Edits" not in page
        assert "<th>AUC" not in page
        assert self.pictures(page)[-1].size == (7 * 16, 16)

    def test_without_directions(self, folder: Path) -> None:
        _, page = self.run(folder, "bare.safetensors")
        assert len(self.pictures(page)) == len(TEMPERATURES)
        assert "<h2>Strips" not in page
        assert "<h2>Cosines" not in page

    def test_faces_of_any_size(self, folder: Path) -> None:
        Image.new("RGB", (50, 40), "teal").save(folder / "a.jpg")
        Image.new("RGB", (16, 16), "navy").save(folder / "b.png")
        faces = f"{folder / 'a.jpg'}, {folder / 'b.png'}"
        _, page = self.run(folder, "toy.safetensors", "--faces", faces)
        assert self.pictures(page)[-1].size == (7 * 16, 2 * 16)

    def test_a_table_that_leaves_images_out(self, folder: Path) -> None:
        (folder / "short.csv").write_text("file,left,top\n00.png,1,1\nx.png,1,1\n")
        with pytest.raises(ValueError, match=r"39 images without a row: 01\.png.*without an im"):
            self.run(folder, "toy.safetensors", "--labels", str(folder / "short.csv"))
