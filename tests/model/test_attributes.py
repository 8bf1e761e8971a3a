"""Directions against latents computed the plain way, all at once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.attributes import (
    ATTRIBUTES,
    STRENGTHS,
    Attribute,
    Readings,
    attributes_of,
    mean_differences,
    ranged,
    read,
    signs,
)
from model.bundle import Direction
from model.config import FlowConfig
from model.flow import Flow

SMILE, AGE = Attribute("smiling", "Smile", "Expression"), Attribute("older", "Age", "Look")


@pytest.fixture
def flow() -> Flow:
    flow = Flow(FlowConfig(resolution=8, steps=(1, 1), hidden=(4, 4)))
    flow.initialize(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)


NAMES = [f"{i}.jpg" for i in range(30)]
LABELS = {
    name: {"smiling": ["1", "-1", ""][i % 3], "older": "1" if i < 12 else "-1"}
    for i, name in enumerate(NAMES)
}


def in_batches(images: Tensor, size: int) -> list[tuple[list[str], Tensor]]:
    return [(NAMES[i : i + size], images[i : i + size]) for i in range(0, len(images), size)]


def latents(flow: Flow, images: Tensor) -> Tensor:
    with torch.no_grad():
        return flow.flatten(flow.encode(images)).double()


@pytest.mark.parametrize("size", [1, 7, 30])
def test_a_direction_is_the_difference_of_the_means(flow: Flow, images: Tensor, size: int) -> None:
    smile, age = mean_differences(flow, in_batches(images, size), LABELS, [SMILE, AGE])
    z = latents(flow, images)
    expected = z[0::3].mean(0) - z[1::3].mean(0)
    torch.testing.assert_close(smile.vector.double(), expected, rtol=1e-4, atol=1e-5)
    assert (smile.name, smile.label, smile.group) == ("smiling", "Smile", "Expression")
    assert (smile.positives, smile.negatives) == (10, 10)
    assert (age.positives, age.negatives) == (12, 18)


def test_readings_are_half_a_unit_at_the_means(flow: Flow, images: Tensor) -> None:
    directions = mean_differences(flow, in_batches(images, 30), LABELS, [SMILE, AGE])
    z = latents(flow, images).float()
    assert directions[0].reading(z[0::3].mean(0)) == pytest.approx(0.5, abs=1e-3)
    assert directions[0].reading(z[1::3].mean(0)) == pytest.approx(-0.5, abs=1e-3)
    moved = z[0] + 0.7 * directions[1].vector
    gained = directions[1].reading(moved) - directions[1].reading(z[0])
    assert gained == pytest.approx(0.7, abs=1e-3)
    readings = read(flow, directions, in_batches(images, 4), LABELS)
    assert readings.values.shape == readings.signs.shape == (30, 2)
    assert readings.values[5, 1].item() == pytest.approx(directions[1].reading(z[5]), abs=1e-4)


def test_auc_counts_the_pairs_in_order() -> None:
    values = torch.tensor([[0.1], [0.4], [0.35], [0.8], [9.0]], dtype=torch.float64)
    sign = torch.tensor([[-1.0], [-1.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    readings = Readings(values, sign)
    assert readings.auc(0) == pytest.approx(3 / 4)
    assert Readings(values, sign.abs()).auc(0) != Readings(values, sign.abs()).auc(0)  # nan


def test_an_attribute_that_none_has_is_an_error(flow: Flow, images: Tensor) -> None:
    labels = {name: {"smiling": "-1"} for name in NAMES}
    with pytest.raises(ValueError, match="smiling has 0 positive and 30 negative"):
        mean_differences(flow, in_batches(images, 30), labels, [SMILE])


def test_images_without_a_row_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"2 images have no row.*x\.jpg, y\.jpg"):
        signs(LABELS, ["0.jpg", "x.jpg", "y.jpg"], ["smiling"])


def test_known_columns_come_with_their_labels() -> None:
    labels = {"a.jpg": {"older": "1", "yaw": "0.31", "smiling": ""}}
    assert [attribute.label for attribute in attributes_of(labels)] == ["Smile", "Age"]
    assert len({attribute.name for attribute in ATTRIBUTES}) == len(ATTRIBUTES)


def test_unknown_tables_give_their_binary_columns() -> None:
    labels = {
        "a.jpg": {"Wavy_Hair": "1", "yaw": "0.31", "source": "1"},
        "b.jpg": {"Wavy_Hair": "-1", "yaw": "-1", "source": "uk"},
    }
    assert attributes_of(labels) == [Attribute("Wavy_Hair", "Wavy hair", "Attributes")]


def direction_of(vector: Tensor) -> Direction:
    return Direction("a", "A", "G", vector, 1, 1, 0.0, 1.0, 0.0, 0.0)


def test_a_range_ends_where_pictures_burst(flow: Flow) -> None:
    """Along the brightness of a grey face, up and down, until it leaves the range of a picture."""
    grey = torch.full((3, 3, 8, 8), 128, dtype=torch.uint8)
    with torch.no_grad():
        middle = flow.flatten(flow.encode(grey))

        def holds(strength: float, vector: Tensor) -> bool:
            picture = flow.decode(flow.unflatten(middle + strength * vector))
            return bool(picture.min() >= -0.2 and picture.max() <= 1.2)

        white = flow.flatten(flow.encode(torch.full_like(grey, 255)))[0]
        brighter = 0.7 * (white - middle[0])
        found = ranged(flow, direction_of(brighter), middle)
        for end in (found.min, found.max):
            further = [s for s in STRENGTHS if s > abs(end)]
            sign = 1 if end > 0 else -1
            assert holds(end, brighter)
            assert not further or not holds(sign * further[0], brighter)
        assert found.max < STRENGTHS[-1]  # well past white

    still = ranged(flow, direction_of(torch.zeros(192)), middle)
    assert (still.min, still.max) == (-STRENGTHS[-1], STRENGTHS[-1])


def test_directions_from_the_command_line(tmp_path: Path, images: Tensor, flow: Flow) -> None:
    from typer.testing import CliRunner

    from model.__main__ import app
    from model.bundle import Bundle
    from model.data import grid

    faces = tmp_path / "faces"
    faces.mkdir()
    for name, image in zip(NAMES, images, strict=True):
        grid(image[None], 1).save(faces / name.replace("jpg", "png"))
    rows = [f"{name.replace('jpg', 'png')},{row['older']}" for name, row in LABELS.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["file,older", *rows]))
    Bundle("toy", flow, card={"licence": "none"}).save(tmp_path / "toy.safetensors")
    arguments = ["directions", "--bundle", "toy.safetensors", "--data", "faces"]
    arguments += ["--validation", "faces", "--labels", "labels.csv", "--half"]
    arguments = [str(tmp_path / a) if (tmp_path / a).exists() else a for a in arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "older" in result.output
    bundle = Bundle.load(tmp_path / "toy.safetensors")
    (direction,) = bundle.directions
    assert (direction.positives, direction.negatives) == (12, 18)
    assert direction.std > 0
    assert direction.min < 0 < direction.max
    assert bundle.card == {"licence": "none"}
    z = latents(bundle.flow, images)
    torch.testing.assert_close(
        direction.vector.double(), z[:12].mean(0) - z[12:].mean(0), rtol=1e-2, atol=2e-3
    )
