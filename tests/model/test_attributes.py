"""Directions against latents computed the plain way, all at once."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from model.__main__ import _spread, app
from model.attributes import (
    ATTRIBUTES,
    BURST,
    LEAST,
    STRENGTHS,
    WORSE,
    Attribute,
    Batches,
    Readings,
    attributes_of,
    bursts,
    confined,
    directions_of,
    edited,
    held_still,
    led,
    mean_difference,
    orthogonal,
    overshoot,
    ranged,
    read,
    spanning,
    sum_up,
)
from model.bundle import Bundle, Direction
from model.config import FlowConfig
from model.data import Images, Labels, grid
from model.flow import Flow
from tests.helpers import unframed

SMILE, AGE, HAT = (Attribute(name, name, "Look") for name in ("smiling", "older", "hat"))
NAN = math.nan


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
SIGNS = torch.tensor(  # smiling, older, hat
    [[(1, -1, 0)[i % 3], 1 if i < 12 else -1, (1, 1, 1, -1, -1, 0, -1)[i % 7]] for i in range(30)],
    dtype=torch.float64,
)
LABELS = Labels(
    ["smiling", "older", "hat"],
    {name: sign.where(sign != 0, NAN).numpy() for name, sign in zip(NAMES, SIGNS, strict=True)},
)


def in_batches(images: Tensor, size: int) -> list[tuple[list[str], Tensor]]:
    return [(NAMES[i : i + size], images[i : i + size]) for i in range(0, len(images), size)]


def latents(flow: Flow, images: Tensor) -> Tensor:
    with torch.no_grad():
        return flow.flatten(flow.encode(images)).double()


def plain(flow: Flow, batches: Batches, attributes: list[Attribute]) -> list[Direction]:
    sums = sum_up(flow, batches, LABELS, attributes)
    return directions_of(sums, mean_difference(sums))


@pytest.mark.parametrize("size", [1, 7, 30])
def test_a_direction_is_the_difference_of_the_means(flow: Flow, images: Tensor, size: int) -> None:
    smile, age = plain(flow, in_batches(images, size), [SMILE, AGE])
    z = latents(flow, images)
    expected = z[0::3].mean(0) - z[1::3].mean(0)
    torch.testing.assert_close(smile.vector.double(), expected, rtol=1e-4, atol=1e-5)
    assert (smile.name, smile.label, smile.group) == ("smiling", "smiling", "Look")
    assert (smile.positives, smile.negatives) == (10, 10)
    assert (age.positives, age.negatives) == (12, 18)


def test_readings_are_half_a_unit_at_the_means(flow: Flow, images: Tensor) -> None:
    directions = plain(flow, in_batches(images, 30), [SMILE, AGE])
    z = latents(flow, images).float()
    assert directions[0].reading(z[0::3].mean(0)) == pytest.approx(0.5, abs=1e-3)
    assert directions[0].reading(z[1::3].mean(0)) == pytest.approx(-0.5, abs=1e-3)
    moved = z[0] + 0.7 * directions[1].vector
    gained = directions[1].reading(moved) - directions[1].reading(z[0])
    assert gained == pytest.approx(0.7, abs=1e-3)
    readings = read(flow, directions, in_batches(images, 4), LABELS)
    assert readings.values.shape == readings.signs.shape == (30, 2)
    assert readings.values[5, 1].item() == pytest.approx(directions[1].reading(z[5]), abs=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_confined_means_differ_in_the_last_levels_alone(
    flow: Flow, images: Tensor, levels: int
) -> None:
    means = mean_difference(sum_up(flow, in_batches(images, 30), LABELS, [SMILE, AGE]))
    before = means[0].clone(), means[1].clone()
    positive, negative = confined(means, flow.config, levels)
    kept = 0 if levels > 1 else flow.config.dimensions - math.prod(flow.config.part_shapes[-1])
    assert torch.equal(positive[:, :kept], negative[:, :kept])
    assert torch.equal(positive[:, kept:], before[0][:, kept:])
    assert torch.equal(negative[:, kept:], before[1][:, kept:])
    torch.testing.assert_close(positive + negative, before[0] + before[1])
    assert all(torch.equal(a, b) for a, b in zip(means, before, strict=True))


def test_a_direction_that_leads_elsewhere(flow: Flow, images: Tensor) -> None:
    batches = in_batches(images, 30)
    (age,) = plain(flow, batches, [AGE])
    vector = age.vector + 0.5 * age.vector.norm() / 14 * torch.randn_like(age.vector)
    turned = led(age, vector)
    assert turned.difference is not None
    torch.testing.assert_close(turned.difference, age.vector)
    before, after = (read(flow, [d], batches, LABELS).values for d in (age, turned))
    torch.testing.assert_close(after / after[0], before / before[0])
    spread = led(replace(age, std=before.std().item()), vector).std
    assert spread == pytest.approx(after.std().item(), rel=1e-4)
    again = led(turned, age.vector)
    assert again.origin == pytest.approx(age.origin, rel=1e-5)
    for nowhere in (-age.vector, torch.zeros_like(vector)):
        with pytest.raises(ValueError, match="older nowhere"):
            led(age, nowhere)


def test_clear_images_are_those_that_read_clearest() -> None:
    values = torch.tensor([[0.1, 0.9, 0.5, -0.9, -0.2, -0.4, 5.0, 0.7]]).T
    signs = torch.tensor([[1, 1, 1, -1, -1, -1, 0, 1]]).T
    readings = Readings(values, signs)
    assert readings.clear(0, 0.5) == pytest.approx((-0.65, 0.8))
    assert readings.clear(0, 0.01) == pytest.approx((-0.9, 0.9))
    assert readings.clear(0, 1.0) == pytest.approx((-0.5, 0.55))
    with pytest.raises(ValueError, match="some without"):
        Readings(values[:3], signs[:3]).clear(0, 0.5)


def test_a_direction_that_spans_two_readings(flow: Flow, images: Tensor) -> None:
    batches = in_batches(images, 30)
    (age,) = plain(flow, batches, [AGE])
    before = read(flow, [age], batches, LABELS)
    lacking, having = before.clear(0, 0.2)
    wide = spanning(age, lacking, having)
    after = read(flow, [wide], batches, LABELS)
    assert after.clear(0, 0.2) == pytest.approx((-0.5, 0.5), abs=1e-4)
    torch.testing.assert_close(wide.vector, (having - lacking) * age.vector)
    deviation = before.values.std().item()
    spread = spanning(replace(age, std=deviation), lacking, having).std
    assert spread == pytest.approx(after.values.std().item(), rel=1e-4)
    assert after.auc(0) == before.auc(0)
    with pytest.raises(ValueError, match="older read no higher"):
        spanning(age, having, lacking)


class TestStratified:
    @staticmethod
    def expected(z: Tensor, own: int, others: list[int]) -> Tensor:
        """Stratum by stratum, from all latents at once."""
        total, weights = torch.zeros(z.shape[1], dtype=torch.float64), 0.0
        for stratum in {tuple(row) for row in SIGNS[:, others].tolist()}:
            here = (SIGNS[:, others] == torch.tensor(stratum, dtype=torch.float64)).all(1)
            positive, negative = z[here & (SIGNS[:, own] == 1)], z[here & (SIGNS[:, own] == -1)]
            if len(positive) and len(negative):
                weight = len(positive) * len(negative) / (len(positive) + len(negative))
                total += weight * (positive.mean(0) - negative.mean(0))
                weights += weight
        return total / weights

    @pytest.mark.parametrize("size", [4, 30])
    def test_is_the_mean_of_the_differences_within_strata(
        self, flow: Flow, images: Tensor, size: int
    ) -> None:
        sums = sum_up(flow, in_batches(images, size), LABELS, [SMILE, AGE], ["older", "hat"])
        smile, age = directions_of(sums, mean_difference(sums))
        z = latents(flow, images)
        for found, own, others in ((smile, 0, [1, 2]), (age, 1, [2])):
            expected = self.expected(z, own, others)
            torch.testing.assert_close(found.vector.double(), expected, rtol=1e-4, atol=1e-5)
        assert (smile.positives, smile.negatives) == (10, 10)

    def test_an_attribute_by_itself_is_plain(self, flow: Flow, images: Tensor) -> None:
        sums = sum_up(flow, in_batches(images, 30), LABELS, [SMILE], ["smiling"])
        (found,) = directions_of(sums, mean_difference(sums))
        (expected,) = plain(flow, in_batches(images, 30), [SMILE])
        torch.testing.assert_close(found.vector, expected.vector)
        assert found.origin == pytest.approx(expected.origin, abs=1e-6)

    def test_no_stratum_with_both(self, flow: Flow, images: Tensor) -> None:
        copies = Labels(["a", "b"], {name: row[[1, 1]] for name, row in LABELS.rows.items()})
        sums = sum_up(flow, in_batches(images, 30), copies, [Attribute("a", "A", "Look")], ["b"])
        with pytest.raises(ValueError, match="no stratum of b has images with a and without"):
            mean_difference(sums)


class TestHeldStill:
    @staticmethod
    def expected(z: Tensor, own: int, others: list[int]) -> Tensor:
        """Twice numpy's least squares of latents on one label and the grades of the others, among
        the images that have that label."""
        columns = [LABELS.columns[i] for i in others]
        known = SIGNS[:, own] != 0
        rows = torch.cat([SIGNS[:, [own]], LABELS.grades(NAMES, columns)], dim=1)[known]
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        return (
            2 * torch.from_numpy(np.linalg.lstsq(rows.numpy(), z[known].numpy(), rcond=None)[0])[0]
        )

    @pytest.mark.parametrize("size", [7, 30])
    def test_is_least_squares(self, flow: Flow, images: Tensor, size: int) -> None:
        held = ["older", "hat"]
        sums = sum_up(flow, in_batches(images, size), LABELS, [SMILE, AGE], hold=held)
        smile, age = directions_of(sums, held_still(sums))
        z = latents(flow, images)
        for found, own, others in ((smile, 0, [1, 2]), (age, 1, [2])):
            expected = self.expected(z, own, others)
            torch.testing.assert_close(found.vector.double(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("attribute", [SMILE, AGE, HAT])
    def test_with_none_is_the_mean_difference(
        self, flow: Flow, images: Tensor, attribute: Attribute
    ) -> None:
        sums = sum_up(flow, in_batches(images, 30), LABELS, [attribute])
        for found, expected in zip(held_still(sums), mean_difference(sums), strict=True):
            torch.testing.assert_close(found, expected)

    def test_what_tells_the_attribute_is_not_held(self, flow: Flow, images: Tensor) -> None:
        """A grade whose thirds are the attribute would leave nothing of it."""
        rows = {n: np.append(row, 3 * row[0] + 40) for n, row in LABELS.rows.items()}
        labels = Labels([*LABELS.columns, "grin"], rows)
        sums = sum_up(flow, in_batches(images, 30), labels, [SMILE], hold=["grin"])
        for found, expected in zip(held_still(sums), mean_difference(sums), strict=True):
            torch.testing.assert_close(found, expected)

    def test_columns_that_add_up(self, flow: Flow, images: Tensor) -> None:
        signs = torch.eye(3, dtype=torch.float64).repeat(10, 1) * 2 - 1
        labels = Labels(["a", "b", "c"], dict(zip(NAMES, signs.numpy(), strict=True)))
        attributes = attributes_of(labels)
        sums = sum_up(flow, in_batches(images, 7), labels, attributes, hold=["a", "b", "c"])
        positive, negative = held_still(sums)
        z = latents(flow, images)
        for i in range(3):
            rows = torch.cat(
                [signs[:, [i]], labels.grades(NAMES, [n for n in "abc" if n != "abc"[i]])], 1
            )
            rows = rows - rows.mean(0)
            expected = (
                2 * torch.from_numpy(np.linalg.lstsq(rows.numpy(), z.numpy(), rcond=None)[0])[0]
            )
            torch.testing.assert_close((positive - negative)[i], expected, rtol=1e-4, atol=1e-5)

    def test_holds_other_attributes_still(self) -> None:
        """Pictures that glasses brighten on the left and age on the right, where glasses are worn
        by the old: the plain difference takes both for glasses, the others tell them apart."""
        flow = Flow(FlowConfig(resolution=8, steps=(1, 1), hidden=(4, 4))).requires_grad_(False)
        glasses = torch.tensor([1.0] * 16 + [-1.0] * 16)
        older = torch.tensor([1.0] * 13 + [-1.0] * 3 + [1.0] * 3 + [-1.0] * 13)
        images = torch.full((32, 3, 8, 8), 100.0)
        images[..., :4] += 20 * glasses[:, None, None, None]
        images[..., 4:] += 20 * older[:, None, None, None]
        names = [f"{i}.png" for i in range(32)]
        signs = torch.stack([glasses, older], dim=1).double()
        labels = Labels(["glasses", "older"], dict(zip(names, signs.numpy(), strict=True)))
        batches = [(names, images.to(torch.uint8))]
        attributes = attributes_of(labels, ["glasses", "older"])
        sums = sum_up(flow, batches, labels, attributes, hold=["glasses", "older"])
        strata = sum_up(flow, batches, labels, attributes, ["glasses", "older"])

        def spill(means: tuple[Tensor, Tensor]) -> float:
            """How much of the direction of glasses lies on the right, over that on the left."""
            picture = flow.decode(flow.unflatten((means[0] - means[1])[:1].float())) - 0.5
            return (picture[..., 4:].norm() / picture[..., :4].norm()).item()

        assert spill(mean_difference(sums)) > 0.4
        assert spill(held_still(sums)) < 0.05
        assert spill(mean_difference(strata)) < 0.05


class TestOrthogonal:
    def test_is_the_nearest_set_at_right_angles(self) -> None:
        vectors = torch.randn(4, 50, dtype=torch.float64) + torch.randn(50, dtype=torch.float64)
        found = orthogonal(vectors)
        units, lengths = found / found.norm(dim=1, keepdim=True), found.norm(dim=1)
        torch.testing.assert_close(units @ units.T, torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(lengths, (vectors * units).sum(1))
        # the orthogonal factor of the polar decomposition, by another road
        u, _, v = torch.linalg.svd(vectors / vectors.norm(dim=1, keepdim=True), full_matrices=False)
        torch.testing.assert_close(units, u @ v)

    def test_takes_no_order(self) -> None:
        vectors = torch.randn(3, 20, dtype=torch.float64)
        torch.testing.assert_close(orthogonal(vectors.flip(0)).flip(0), orthogonal(vectors))

    def test_still_reads_half_at_the_means(self, flow: Flow, images: Tensor) -> None:
        sums = sum_up(flow, in_batches(images, 30), LABELS, [SMILE, AGE, HAT])
        smile, *_ = directions_of(sums, mean_difference(sums), orthogonalise=True)
        z = latents(flow, images).float()
        assert smile.reading(z[0::3].mean(0)) == pytest.approx(0.5, abs=1e-3)
        assert smile.reading(z[1::3].mean(0)) == pytest.approx(-0.5, abs=1e-3)

    def test_a_sum_of_the_others(self) -> None:
        with pytest.raises(ValueError, match="not independent"):
            orthogonal(torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.float64))


def test_auc_counts_the_pairs_in_order() -> None:
    values = torch.tensor([[0.1], [0.4], [0.35], [0.8], [9.0]], dtype=torch.float64)
    sign = torch.tensor([[-1.0], [-1.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    readings = Readings(values, sign)
    assert readings.auc(0) == pytest.approx(3 / 4)
    assert Readings(values, sign.abs()).auc(0) != Readings(values, sign.abs()).auc(0)  # nan


def test_a_tie_counts_half() -> None:
    values = torch.tensor([[1.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    sign = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]], dtype=torch.float64)
    assert Readings(values, sign).auc(0) == pytest.approx(3 / 4)


def test_an_attribute_that_none_has_is_an_error(flow: Flow, images: Tensor) -> None:
    labels = Labels(["smiling"], {name: np.array([-1.0]) for name in NAMES})
    with pytest.raises(ValueError, match="smiling has 0 positive and 30 negative"):
        sum_up(flow, in_batches(images, 30), labels, [SMILE])


def test_known_columns_come_with_their_labels() -> None:
    labels = Labels(["older", "yaw", "smiling"], {})
    assert [attribute.label for attribute in attributes_of(labels)] == ["Smile", "Age"]
    chosen = attributes_of(labels, ["yaw", "older"])
    assert [attribute.label for attribute in chosen] == ["Yaw", "Age"]
    assert len({attribute.name for attribute in ATTRIBUTES}) == len(ATTRIBUTES)


def test_unknown_tables_give_all_their_columns() -> None:
    labels = Labels(["Wavy_Hair", "yaw"], {})
    assert attributes_of(labels) == [
        Attribute("Wavy_Hair", "Wavy hair", "Attributes"),
        Attribute("yaw", "Yaw", "Attributes"),
    ]


def direction_of(vector: Tensor) -> Direction:
    return Direction("a", "A", "G", vector, 1, 1, 0.0, 1.0, 0.0, 0.0)


@pytest.fixture
def shades(flow: Flow) -> Tensor:
    """Flat latents of forty grey faces, dark to light."""
    shades = torch.linspace(40, 215, 40).to(torch.uint8)[:, None, None, None].expand(40, 3, 8, 8)
    return latents(flow, shades)


def test_a_range_ends_where_steps_are_cut_but_not_below_one(flow: Flow, shades: Tensor) -> None:
    """Found as by decoding every face at every strength."""
    vector = 0.4 * (shades[-1] - shades[0])

    def share(strength: float) -> float:
        with torch.no_grad():
            pictures = flow.decode(flow.unflatten(shades + strength * vector)).flatten(1)
        return ((pictures >= -0.2) & (pictures <= 1.2)).all(1).double().mean().item()

    for wanted in (0.5, 0.8, 0.95):
        found = ranged(flow, direction_of(vector), shades, wanted)
        for sign, end in ((1, found.max), (-1, -found.min)):
            assert end == max(s for s in STRENGTHS if s == 1 or share(sign * s) >= wanted)
    assert ranged(flow, direction_of(3 * vector), shades).max == 1  # past white
    still = ranged(flow, direction_of(torch.zeros(192)), shades)
    assert (still.min, still.max) == (-STRENGTHS[-1], STRENGTHS[-1])


class TestEdited:
    """Along the brightness of grey faces, until they leave the range of a picture."""

    def test_a_picture_that_holds_is_the_decoded_step(self, flow: Flow, shades: Tensor) -> None:
        step = 0.02 * (shades[-1] - shades[0])
        pictures, share = edited(
            lambda z: flow.decode(flow.unflatten(z)), shades, step.expand_as(shades)
        )
        with torch.no_grad():
            assert torch.equal(pictures, flow.decode(flow.unflatten(shades + step)))
        assert (share == 1).all()

    def test_a_step_is_cut_until_the_picture_holds(self, flow: Flow, shades: Tensor) -> None:
        step = 0.5 * (shades[-1] - shades[0])
        pictures, share = edited(
            lambda z: flow.decode(flow.unflatten(z)), shades, step.expand_as(shades)
        )
        assert not bursts(pictures).any()
        assert share[0] == 1
        assert share[-1] < 1
        whole = share == 1
        assert whole.sort(descending=True).values.equal(whole), "light faces can be lightened less"
        with torch.no_grad():
            for i in torch.nonzero(share < 1)[:, 0].tolist():
                less = shades[[i]] + share[i] * step
                torch.testing.assert_close(pictures[[i]], flow.decode(flow.unflatten(less)))
                more = shades[[i]] + share[i] / LEAST * step
                assert bursts(flow.decode(flow.unflatten(more))).all(), "no further than needed"

    def test_no_step_no_change(self, flow: Flow, shades: Tensor) -> None:
        """Even where the latent's own picture bursts."""
        far = shades[:2] + 20 * (shades[-1] - shades[0])
        pictures, share = edited(
            lambda z: flow.decode(flow.unflatten(z)), far, torch.zeros_like(far)
        )
        assert bursts(pictures).all()
        assert (share == 1).all()

    def test_a_face_that_bursts_by_itself_gets_little_worse(
        self, flow: Flow, shades: Tensor
    ) -> None:
        lighter = shades[-1] - shades[0]
        far = (shades[:2] + 20 * lighter).repeat(2, 1)
        steps = torch.stack([15 * lighter, 15 * lighter, -lighter, -lighter])
        pictures, share = edited(lambda z: flow.decode(flow.unflatten(z)), far, steps)
        with torch.no_grad():
            own = overshoot(flow.decode(flow.unflatten(far)))
            whole = overshoot(flow.decode(flow.unflatten(far + steps)))
            darker = flow.decode(flow.unflatten(far - lighter))
        assert (whole[:2] > 1.5 * own[:2] + WORSE).all()
        assert (overshoot(pictures) <= 1.5 * own + WORSE).all()
        assert (share[:2] > 0).all()
        assert (share[:2] < 1).all()
        assert share[2:].tolist() == [1, 1]
        torch.testing.assert_close(pictures[2:], darker[2:])

    @pytest.mark.parametrize("bursting", [False, True])
    def test_a_face_that_just_bursts_can_be_edited_or_nearly_does(
        self, flow: Flow, shades: Tensor, bursting: bool
    ) -> None:
        lighter = shades[-1] - shades[0]

        def decode(latents: Tensor) -> Tensor:
            return flow.decode(flow.unflatten(latents))

        with torch.no_grad():
            within, beyond = 0.0, 20.0
            for _ in range(40):
                middle = (within + beyond) / 2
                if bursts(decode(shades[:1] + middle * lighter)):
                    beyond = middle
                else:
                    within = middle
            just = shades[:1] + (beyond if bursting else within) * lighter
            own = overshoot(decode(just))
        assert (own > BURST) == bursting
        assert own == pytest.approx(BURST, abs=WORSE / 2)
        pictures, share = edited(decode, just, 0.02 * lighter[None])
        assert share > 0
        assert overshoot(pictures) <= 1.5 * own + WORSE

    def test_each_picture_as_if_alone(self, flow: Flow, shades: Tensor) -> None:
        """Among others whose steps hold, burst or start from a face that bursts."""
        lighter = shades[-1] - shades[0]
        mixed = torch.cat([shades[::8], shades[:1] + 20 * lighter])
        steps = (0.5 * lighter).expand_as(mixed)
        pictures, share = edited(lambda z: flow.decode(flow.unflatten(z)), mixed, steps)
        for i in range(len(mixed)):
            picture, taken = edited(
                lambda z: flow.decode(flow.unflatten(z)), mixed[[i]], steps[[i]]
            )
            torch.testing.assert_close(picture, pictures[[i]])
            torch.testing.assert_close(taken, share[[i]])


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path, images: Tensor, flow: Flow) -> Path:
        (tmp_path / "faces").mkdir()
        for name, image in zip(NAMES, images, strict=True):
            grid(image[None], 1).save(tmp_path / "faces" / name.replace("jpg", "png"))
        rows = [
            ",".join([name.replace("jpg", "png"), *(f"{v:.0f}" if v == v else "" for v in row)])
            for name, row in LABELS.rows.items()
        ]
        (tmp_path / "labels.csv").write_text("\n".join(["file,smiling,older,hat", *rows]))
        Bundle("toy", flow, card={"licence": "none"}).save(tmp_path / "toy.safetensors")
        return tmp_path

    @staticmethod
    def invoke(folder: Path, *arguments: str) -> Result:
        faces = str(folder / "faces")
        command = ["directions", "--bundle", str(folder / "toy.safetensors"), "--data", faces]
        return CliRunner().invoke(app, [*command, "--validation", faces, *arguments])

    def run(self, folder: Path, *arguments: str) -> str:
        result = self.invoke(folder, *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def test_some_images_are_from_all_over_their_order(self, folder: Path) -> None:
        images = Images.find(folder / "faces", 8, "train", folder / "faces")
        _, every = next(images.batches(100))
        places = [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 26, 27, 29]
        assert torch.equal(_spread(images, 20)[1], every[places])
        assert torch.equal(_spread(images, 100)[1], every)

    def test_writes_directions_into_the_bundle(self, folder: Path, images: Tensor) -> None:
        labels = str(folder / "labels.csv")
        output = self.run(folder, "--labels", labels, "--attributes", "older", "--half")
        assert "older" in output
        bundle = Bundle.load(folder / "toy.safetensors")
        (direction,) = bundle.directions
        assert (direction.positives, direction.negatives) == (12, 18)
        assert direction.std > 0
        assert direction.min < 0 < direction.max
        assert bundle.card == {
            "licence": "none",
            "directions": {
                "levels": 2,
                "clear": 0,
                "stratified_by": [],
                "held": [],
                "still": "",
                "orthogonal": False,
                "along": None,
                "lengths": "",
            },
        }
        z = latents(bundle.flow, images)
        torch.testing.assert_close(
            direction.vector.double(), z[:12].mean(0) - z[12:].mean(0), rtol=1e-2, atol=2e-3
        )

    @pytest.mark.parametrize("method", ["stratify", "hold", "orthogonal"])
    def test_other_directions(self, folder: Path, images: Tensor, method: str) -> None:
        arguments = ["--labels", str(folder / "labels.csv"), "--attributes", "smiling, older"]
        match method:
            case "orthogonal":
                arguments += ["--orthogonal"]
            case other:
                arguments += [f"--{other}", "older,hat"]
        output = self.run(folder, *arguments)
        bundle = Bundle.load(folder / "toy.safetensors")
        strata, held = (["older", "hat"] if method == m else [] for m in ("stratify", "hold"))
        sums = sum_up(bundle.flow, in_batches(images, 30), LABELS, [SMILE, AGE], strata, held)
        means = (held_still if method == "hold" else mean_difference)(sums)
        expected = directions_of(sums, means, method == "orthogonal")
        for found, wanted in zip(bundle.directions, expected, strict=True):
            torch.testing.assert_close(found.vector, wanted.vector, rtol=1e-2, atol=2e-3)
        cosine = torch.cosine_similarity(expected[0].vector, expected[1].vector, dim=0).item()
        assert re.search(rf"^older +{round(100 * cosine)} +100$", output, re.MULTILINE)
        assert bundle.card["directions"]["stratified_by"] == strata
        assert bundle.card["directions"]["held"] == held

    def test_clear_directions_of_the_last_level(self, folder: Path, images: Tensor) -> None:
        arguments = ["--labels", str(folder / "labels.csv"), "--attributes", "smiling, older"]
        self.run(folder, *arguments, "--levels", "1", "--clear", "0.2")
        bundle = Bundle.load(folder / "toy.safetensors")
        assert bundle.card["directions"]["levels"] == 1
        assert bundle.card["directions"]["clear"] == 0.2
        batches = in_batches(images, 30)
        means = mean_difference(sum_up(bundle.flow, batches, LABELS, [SMILE, AGE]))
        differences = torch.sub(*confined(means, bundle.flow.config, 1)).float()
        readings = read(bundle.flow, bundle.directions, batches, LABELS)
        for i, (found, plain) in enumerate(zip(bundle.directions, differences, strict=True)):
            assert torch.cosine_similarity(found.vector, plain, dim=0) > 0.9999
            assert readings.clear(i, 0.2) == pytest.approx((-0.5, 0.5), abs=1e-3)
            assert found.std == pytest.approx(readings.values[:, i].std().item(), rel=1e-3)

    def test_still_directions(self, folder: Path, images: Tensor) -> None:
        arguments = ["--labels", str(folder / "labels.csv"), "--attributes", "smiling, older"]
        self.run(folder, *arguments, "--levels", "1", "--out", str(folder / "plain.safetensors"))
        self.run(folder, *arguments, "--levels", "1", "--still", "8, older=0")
        bundle = Bundle.load(folder / "toy.safetensors")
        assert bundle.card["directions"]["still"] == "8, older=0"
        plain, age = Bundle.load(folder / "plain.safetensors").directions
        smile, same = bundle.directions
        assert torch.equal(same.vector, age.vector)
        assert same.origin == age.origin
        assert smile.difference is not None
        assert torch.equal(smile.difference, plain.vector)
        assert not smile.vector[:-96].any()
        assert torch.cosine_similarity(smile.vector, plain.vector, dim=0) < 0.999
        batches = in_batches(images, 30)
        ours, theirs = (read(bundle.flow, [d], batches, LABELS) for d in (smile, plain))
        assert ours.auc(0) == theirs.auc(0)
        assert smile.std == pytest.approx(ours.values.std().item(), rel=1e-3)
        z = latents(bundle.flow, images)[0]
        assert smile.reading(z + smile.vector) == pytest.approx(smile.reading(z) + 1)

    def test_along_those_of_another_bundle(self, folder: Path, images: Tensor) -> None:
        arguments = ["--labels", str(folder / "labels.csv"), "--attributes", "smiling, older"]
        self.run(folder, *arguments, "--out", str(folder / "plain.safetensors"))
        held = str(folder / "held.safetensors")
        self.run(folder, *arguments, "--hold", "hat", "--out", held)
        self.run(folder, *arguments, "--along", held, "--lengths", "older=1.25")
        bundle = Bundle.load(folder / "toy.safetensors")
        assert bundle.card["directions"]["along"] == "held"
        assert bundle.card["directions"]["lengths"] == "older=1.25"
        plain, theirs = (
            Bundle.load(folder / f"{n}.safetensors").directions for n in ("plain", "held")
        )
        z = latents(bundle.flow, images)[0]
        for own, other, wanted, length in zip(
            bundle.directions, plain, theirs, (1, 1.25), strict=True
        ):
            assert torch.equal(own.vector, length * wanted.vector)
            assert own.difference is not None
            assert torch.equal(own.difference, other.vector)
            assert own.reading(z + own.vector) == pytest.approx(own.reading(z) + 1)
            nought = z - other.reading(z) * other.vector
            assert own.reading(nought) == pytest.approx(0, abs=1e-5)

    def test_too_many_numbers_to_still(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("model.__main__.MOST_NUMBERS", 95)
        arguments = ["--labels", str(folder / "labels.csv"), "--still", "8", "--levels", "1"]
        result = self.invoke(folder, *arguments)
        assert result.exit_code == 2
        assert "fewer, not 96" in result.output

    def test_subfolders_are_classes(self, folder: Path) -> None:
        for i, path in enumerate(sorted((folder / "faces").iterdir())):
            path = path.rename(folder / path.name)
            (folder / "faces" / "abc"[i % 3]).mkdir(exist_ok=True)
            path.rename(folder / "faces" / "abc"[i % 3] / path.name)
        self.run(folder, "--hold", "a,b,c")
        directions = Bundle.load(folder / "toy.safetensors").directions
        assert [(d.name, d.positives, d.negatives) for d in directions] == [
            (name, 10, 20) for name in "abc"
        ]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ([], "no labels"),
            (["--stratify", "hat", "--hold", "older"], "in two ways"),
            (["--labels", "labels.csv", "--levels", "3"], "the flow has 2 levels, not 3"),
            (["--labels", "labels.csv", "--hold", "wings"], "no column of numbers wings"),
            (["--labels", "labels.csv", "--still", "8,wings=1"], "none of the attributes"),
            (["--labels", "labels.csv", "--still", "8", "--orthogonal"], "not --orthogonal then"),
            (["--labels", "labels.csv", "--still", "much"], "much is no number of 0 or more"),
            (["--labels", "labels.csv", "--still", "older=-1"], "-1 is no number of 0 or more"),
            (["--labels", "labels.csv", "--lengths", "2"], "a part of --along"),
            (["--labels", "labels.csv", "--along", "x", "--still", "8"], "--along takes others"),
            (["--labels", "labels.csv", "--along", "toy.safetensors"], "no direction smiling"),
            (["--labels", "labels.csv", "--along", "x", "--orthogonal"], "--along takes others"),
            (["--labels", "labels.csv", "--along", "labels.csv"], "cannot be read"),
            (
                ["--labels", "labels.csv", "--along", "toy.safetensors", "--lengths", "older=0"],
                "a direction of no length",
            ),
            (
                ["--labels", "labels.csv", "--along", "toy.safetensors", "--lengths", "wings=2"],
                "none of the attributes",
            ),
            (["--labels", "labels.csv", "--along", "finer.safetensors"], "have other parts"),
            (["--labels", "labels.csv", "--attributes", "wings"], "no column of numbers wings"),
            (["--labels", "labels.csv", "--stratify", "wings"], "no column of numbers wings"),
            (["--labels", "text.csv"], "no labels"),
            (["--labels", "short.csv"], "29 images without a row: 1.png"),
        ],
    )
    def test_says_what_is_wrong(self, folder: Path, arguments: list[str], error: str) -> None:
        (folder / "short.csv").write_text("file,older\n0.png,1\n")
        rows = [f"{name.replace('jpg', 'png')},uk" for name in NAMES]
        (folder / "text.csv").write_text("\n".join(["file,source", *rows]))
        Bundle("finer", Flow(FlowConfig(resolution=16, steps=(1, 1), hidden=(4, 4)))).save(
            folder / "finer.safetensors"
        )
        files = (".csv", ".safetensors")
        arguments = [str(folder / a) if a.endswith(files) else a for a in arguments]
        before = (folder / "toy.safetensors").read_bytes()
        result = self.invoke(folder, *arguments)
        assert result.exit_code
        assert error in unframed(result.output) + str(result.exception)
        assert (folder / "toy.safetensors").read_bytes() == before
