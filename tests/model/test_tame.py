"""Taming: what moves, by how much, and what moved pictures are held to."""

import copy
import math

import pytest
import torch
from torch import Tensor

import model.tame
from model.config import FlowConfig
from model.flow import Flow
from model.skin import border, in_colours_of, inside
from model.tame import (
    BURST_WEIGHT,
    FAR,
    GAUDY,
    LEAST,
    MOST,
    MOVED,
    RIM,
    STRAY_WEIGHT,
    Taming,
    burst_loss,
    far_loss,
    stray,
)


def test_burst_loss_is_logarithmic_in_what_leaves_the_scale() -> None:
    pictures = torch.zeros(5, 3, 8, 8)
    pictures[1, 0, 0, 0] = -0.54
    pictures[2, 0, 0, 0] = 0.65
    pictures[3, 0, 0, 0] = -100.55
    pictures[4, 0, 0, 0] = torch.inf
    inside, near, out, far, lost = burst_loss(pictures).tolist()
    assert inside == near == 0
    assert out == pytest.approx(math.log1p(2), abs=1e-4)
    assert far == pytest.approx(math.log1p(2000), abs=1e-4)
    assert far < lost < 20


def test_far_loss_is_logarithmic_in_what_is_beyond() -> None:
    latents = torch.zeros(4, 50)
    latents[1, 3] = -FAR
    latents[2, 3] = FAR + 2
    latents[3, 3] = -FAR - 2000
    near, edge, out, far = far_loss(latents).tolist()
    assert near == edge == 0
    assert out == pytest.approx(math.log1p(2), abs=1e-4)
    assert far == pytest.approx(math.log1p(2000), abs=1e-4)


class TestDraw:
    """Which latents of a step move, and how still the rest of their pictures is to stay."""

    @pytest.fixture
    def draws(self) -> list[tuple[Tensor, Tensor]]:
        taming = Taming(torch.eye(3), torch.tensor([0.0, 0.25, 1.0]))
        return [taming.draw(2 * MOVED, torch.Generator().manual_seed(i)) for i in range(40)]

    def test_along_one_direction_or_two(self, draws: list[tuple[Tensor, Tensor]]) -> None:
        counts = set()
        for steps, _ in draws:
            moved = steps.any(1)
            assert moved.nonzero()[:, 0].tolist() == [0, MOVED]
            assert ((least := LEAST / math.sqrt(2)) <= steps[moved].abs().amax(1)).all()
            assert least < steps.abs().max() <= MOST
            counts |= set(steps[moved].count_nonzero(1).tolist())
        assert counts == {1, 2}

    def test_as_still_as_the_direction_that_has_to_move_most(
        self, draws: list[tuple[Tensor, Tensor]]
    ) -> None:
        seen = set()
        for steps, still in draws:
            for step, share in zip(steps[::MOVED], still[::MOVED].tolist(), strict=True):
                assert share == (0.0, 0.25, 1.0)[int(step.nonzero()[0])]
                seen.add(share)
        assert seen == {0.0, 0.25, 1.0}

    def test_as_often_as_its_number_above_one(self) -> None:
        still = torch.tensor([0.0, 0.5, 4.0, 1.0])
        count = 4000
        steps, stillness = Taming(torch.eye(4), still).draw(
            count * MOVED, torch.Generator().manual_seed(0)
        )
        steps, stillness = steps[::MOVED], stillness[::MOVED]
        alone = steps[steps.count_nonzero(1) == 1]
        shares = alone.count_nonzero(0) / len(alone)
        assert shares.tolist() == pytest.approx([1 / 7, 1 / 7, 4 / 7, 1 / 7], abs=0.03)
        pairs = steps[steps.count_nonzero(1) == 2]
        of_last = pairs[:, 3].count_nonzero() / len(pairs)  # drawn first, or after another
        assert of_last.item() == pytest.approx(1 / 7 * (1 + 2 / 6 + 4 / 3), abs=0.03)
        assert stillness[steps[:, 2].bool() & ~steps[:, :2].any(1)].unique().tolist() == [1.0]


class TestStray:
    SIDE = 64

    @pytest.fixture
    def before(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, 3, self.SIDE, self.SIDE, generator=generator) * 0.4 - 0.2

    @pytest.fixture
    def asked(self, before: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return before + torch.rand(before.shape, generator=generator) * 0.2

    def test_a_picture_that_stays_is_wrong_inside_alone(
        self, before: Tensor, asked: Tensor
    ) -> None:
        found = stray(before, before, asked, torch.ones(1)).item()
        within = (inside(self.SIDE) * (asked - before)).abs().mean().item()
        assert found == pytest.approx(255 * within, rel=1e-4)

    def test_as_asked_is_right_where_nothing_is_to_be_still(
        self, before: Tensor, asked: Tensor
    ) -> None:
        assert stray(asked, before, asked, torch.zeros(1)).item() == pytest.approx(0, abs=1e-4)

    def test_a_border_that_moves_is_wrong_by_the_square_of_grey_levels(
        self, before: Tensor
    ) -> None:
        moved = before.clone()
        moved[:, :, border(self.SIDE)] += 10 / 255
        around = 1 - inside(self.SIDE)
        share = around[border(self.SIDE)].sum() / around.sum()
        found = stray(moved, before, before, torch.ones(1)).item()
        assert found == pytest.approx((10 * share.item()) ** 2 / RIM, rel=1e-3)
        assert stray(moved, before, moved, torch.zeros(1)).item() == pytest.approx(0, abs=1e-4)

    def test_skin_that_grows_lighter_is_wrong_though_asked_for(self, before: Tensor) -> None:
        asked = before.clone()
        asked[:, :, 32:38, 15:20] += 10 / 255  # one cheek of the two
        found = [stray(asked, before, asked, torch.tensor([share])).item() for share in (0, 0.5, 1)]
        assert found[0] == pytest.approx(0, abs=1e-4)
        assert found[2] == pytest.approx(2 * found[1])
        assert 3 < found[2] < 5.1

    def test_colours_that_the_face_has_not_are_wrong_though_asked_for(self, before: Tensor) -> None:
        grey = before.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        teeth = grey.clone()
        teeth[:, 1, 40:44, 28:36] += 0.3
        beyond = (teeth - in_colours_of(grey, teeth)).abs().mean().item()
        assert beyond > 0
        held, free = (stray(teeth, grey, teeth, torch.tensor([s])).item() for s in (1.0, 0.0))
        assert held == pytest.approx(255 * GAUDY * beyond, rel=1e-3)
        assert free == pytest.approx(0, abs=1e-4)
        brighter = teeth.clone()
        brighter[:, :, 40:44, 28:36] = grey[:, :, 40:44, 28:36] + 0.1  # as grey as before
        assert stray(brighter, grey, brighter, torch.ones(1)).item() == pytest.approx(0, abs=1e-4)

    def test_what_computes_in_bfloat16_sees_as_little_light(self, before: Tensor) -> None:
        lighter = before + 0.4 / 255
        ways = [torch.autocast("cpu", torch.bfloat16, enabled) for enabled in (False, True)]
        found = []
        for way in ways:
            with way:
                found.append(stray(lighter, before, lighter, torch.ones(1)).item())
        assert found[1] == pytest.approx(found[0], abs=1e-3)
        assert found[0] > 0.8


class TestLoss:
    """What moves to where no picture is, and what does not move, does no harm."""

    @pytest.fixture
    def flow(self) -> Flow:
        torch.manual_seed(0)
        flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8)))
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return flow

    @pytest.mark.parametrize("length", [0.0, 1e4])
    def test_is_finite(self, flow: Flow, length: float) -> None:
        y = torch.rand(4, 3, 8, 8) - 0.5
        latents = flow.flatten(flow(y)[0])
        steps = torch.zeros_like(latents)
        steps[:2] = length
        teacher = copy.deepcopy(flow).requires_grad_(False)
        taming = Taming(torch.ones(1, latents.shape[1]), torch.ones(1), teacher)
        moved = steps.any(1)
        of_these = (each[moved] for each in (y, latents))
        moves = (each[moved] for each in (steps, torch.ones(4), y, y.roll(1, 0)))
        loss = taming.loss(flow, *of_these, None, *moves)
        assert loss.isfinite()
        assert (loss > 0) == (length > 0)
        if length:
            gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
            assert all(each.isfinite().all() for each in gradients if each is not None)

    @pytest.mark.parametrize("classes", [0, 2])
    @pytest.mark.parametrize("burst_weight", [0.0, BURST_WEIGHT])
    def test_midway_between_faces_it_is_to_draw_what_the_teacher_does(
        self, monkeypatch: pytest.MonkeyPatch, burst_weight: float, classes: int
    ) -> None:
        """On the scale. The next to no step asks for nothing else: any teacher draws the face."""
        monkeypatch.setattr(model.tame, "BURST_WEIGHT", burst_weight)
        torch.manual_seed(0)
        flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8), classes=classes))
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        teacher = copy.deepcopy(flow).requires_grad_(False)
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        labels = torch.tensor([0, 1, 1, 0]) if classes else None
        y, others = 1.4 * torch.rand(2, 4, 3, 8, 8) - 0.7
        latents = flow.flatten(flow(y, labels)[0])
        steps = torch.full_like(latents, 1e-7)
        found = []
        for who in (teacher, None):
            taming = Taming(torch.ones(1, latents.shape[1]), torch.zeros(1), who)
            loss = taming.loss(flow, y, latents, labels, steps, torch.zeros(4), y, others)
            (gradient,) = torch.autograd.grad(loss, flow.levels[0].steps[0].layers[0].bias)
            found.append((loss.item(), gradient))
            latents = flow.flatten(flow(y, labels)[0])
        off = outside = 0.0
        for i in range(4):
            label = None if labels is None else labels[i : i + 1]
            pictures = []
            for program in (flow, teacher):
                z, other = (
                    program.flatten(program(each[i : i + 1], label)[0]) for each in (y, others)
                )
                pictures.append(program.inverse(program.unflatten((z + other) / 2), label))
            outside += burst_loss(pictures[0]).item()
            mine, its = (each.clamp(-0.5, 0.5) for each in pictures)
            off += 255 * (mine - its).abs().mean().item()
        assert 1 < off < 100
        assert outside > 0.1
        asked = STRAY_WEIGHT * off + burst_weight * outside
        assert found[0][0] - found[1][0] == pytest.approx(asked, rel=1e-3)
        assert (found[0][1] - found[1][1]).abs().max() > 1e-3

    @pytest.mark.parametrize("still", [0.0, 0.5, 1.0])
    def test_the_teacher_is_seen_in_colours_of_the_face(
        self, monkeypatch: pytest.MonkeyPatch, still: float
    ) -> None:
        """As far as the picture is to be still. The next to no step asks for the face itself."""
        torch.manual_seed(0)
        flow = Flow(FlowConfig(resolution=16, steps=(2, 2), hidden=(8, 8)))
        teacher = copy.deepcopy(flow).requires_grad_(False)
        taming = Taming(torch.ones(1, flow.config.dimensions), torch.ones(1), teacher)
        y, others = torch.rand(2, 3, 3, 16, 16) * 0.8 - 0.4
        latents = flow.flatten(flow(y)[0])
        steps = torch.full_like(latents, 1e-7)
        colour = torch.tensor([0.1, -0.1, 0.05])[:, None, None]
        found = []
        for by in (0.0, 1.0):

            def coloured(faces: Tensor, asked: Tensor, by: float = by) -> Tensor:
                assert torch.equal(faces, y)
                return asked + by * colour

            monkeypatch.setattr(model.tame, "in_colours_of", coloured)
            shares = torch.full((3,), still)
            moves = (steps, shares, y, others)
            found.append(taming.loss(flow, y, latents, None, *moves).item())
        face = inside(16)
        within = (1 + GAUDY) * still * (face * colour).abs().mean()
        at_rim = still * (1 - still) * ((1 - face) * colour).abs().mean() / (1 - face).mean()
        asked = 3 * STRAY_WEIGHT * (255 * within + (255 * at_rim) ** 2 / RIM).item()
        assert found[1] - found[0] == pytest.approx(asked, rel=1e-3, abs=1e-5)
