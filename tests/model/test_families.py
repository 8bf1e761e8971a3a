"""NICE, RealNVP and Glow are settings of one flow: what only a whole one of each can show. The toys
of tests/model/conftest.py hold each family to what test_flow.py says of any flow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.bundle import Bundle
from model.config import PRESETS, FlowConfig
from model.flow import Flow
from model.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    CheckerboardCoupling,
    Flatten,
    Invertible1x1,
    ResidualBlock,
)
from model.train import TrainConfig, Trainer, bits_per_dim


def kinds(flow: Flow) -> set[type]:
    return {type(module) for module in flow.modules()}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str) -> None:
    config = PRESETS[name]
    flow = Flow(config)
    assert sum(p.numel() for p in flow.parameters()) < 60_000_000
    shapes = [(1, *shape) for shape in config.part_shapes]
    latent, log_det = flow(torch.zeros(1, 3, config.resolution, config.resolution))
    assert [part.shape for part in latent] == shapes
    assert log_det.shape == (1,)


@pytest.mark.parametrize("size", [64, 32])
def test_each_preset_is_of_its_family(size: int) -> None:
    glow, realnvp, nice = (
        kinds(Flow(PRESETS[f"{family}{size}"])) for family in ("glow", "realnvp", "nice")
    )
    assert {ActNorm, Invertible1x1, AffineCoupling} <= glow
    assert not {CheckerboardCoupling, ResidualBlock, Flatten} & glow
    assert {ActNorm, AffineCoupling, CheckerboardCoupling, ResidualBlock} <= realnvp
    assert not {Invertible1x1, Flatten} & realnvp
    assert {AdditiveCoupling, Flatten} <= nice
    assert not {ActNorm, Invertible1x1, AffineCoupling, CheckerboardCoupling} & nice


def test_checkerboards_take_turns() -> None:
    flow = Flow(FlowConfig(resolution=8, steps=(1,), hidden=(8,), checkerboard=(3,)))
    boards = [m.parity for m in flow.modules() if isinstance(m, CheckerboardCoupling)]
    assert boards == [0, 1, 0]


def test_the_halves_of_nice_meet(pictures: Tensor, perturb: Callable[..., Flow]) -> None:
    """Its couplings take turns: every number of a picture moves every number of its latent."""
    flow = perturb(Flow(replace(PRESETS["nice32"], resolution=8, hidden=(16,)))).double()
    flow.requires_grad_(False)
    y = flow.dequantize(pictures[:1], 0.5)
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: flow.flatten(flow(flat.view_as(y))[0])[0], y.flatten(), vectorize=True
    )
    assert (jacobian != 0).float().mean() > 0.99


def test_names_of_a_glow_are_those_that_bundles_store() -> None:
    flow = Flow(FlowConfig(resolution=4, steps=(1, 1), hidden=(8, 8)))
    step = [
        *("0.bias", "0.log_scale"),
        *("1.log_scale", "1.lower", "1.upper", "1.permutation", "1.sign"),
        *(f"2.network.{conv}.{of}" for conv in ("first", "middle") for of in ("weight", "bias")),
        *(f"2.network.last.{of}" for of in ("weight", "bias", "log_gain")),
    ]
    expected = {f"levels.{level}.steps.0.layers.{name}" for level in (0, 1) for name in step}
    expected |= {f"splits.0.prior.{of}" for of in ("weight", "bias", "log_gain")}
    expected |= {"prior.mean", "prior.log_scale"}
    assert set(flow.state_dict()) == expected


@pytest.mark.parametrize("seed", range(4))
def test_deeper_ones_are_exact(
    family: FlowConfig, seed: int, pictures: Tensor, perturb: Callable[..., Flow]
) -> None:
    """Twice the couplings of the toys, away from their start by half as much."""
    config = replace(
        family,
        steps=tuple(2 * steps for steps in family.steps),
        checkerboard=tuple(2 * couplings for couplings in family.checkerboard),
    )
    flow = Flow(config)
    flow.initialize(pictures)
    perturb(flow, scale=0.05, seed=seed)
    extremes = torch.randint(0, 2, (16, 3, 8, 8)) * 255
    images = torch.cat([extremes, torch.randint(0, 256, (16, 3, 8, 8))]).to(torch.uint8)
    middle = (images + 0.5) / 256
    torch.testing.assert_close(flow.decode(flow.encode(images)), middle, rtol=0, atol=0.1 / 256)


@pytest.mark.parametrize("reversible", [False, True])
def test_training_lowers_bits_per_dim(
    family: FlowConfig, reversible: bool, pictures: Tensor
) -> None:
    config = TrainConfig(
        steps=40, batch=8, learning_rate=5e-3, warm_up=2, ema=0.5, reversible=reversible
    )
    trainer = Trainer(Flow(family), pictures, config)
    trainer.initialize()
    untrained = bits_per_dim(trainer.flow, pictures).mean()
    for _ in range(40):
        trainer.train_step()
    flow = trainer.averaged
    noise = torch.randint(0, 256, (8, 3, 8, 8)).to(torch.uint8)
    assert bits_per_dim(flow, pictures).mean() < untrained - 0.25
    for images in (pictures, noise):
        assert torch.equal(flow.quantize(flow.decode(flow.encode(images))), images)


def test_bundles_keep_every_family(family: FlowConfig, pictures: Tensor, tmp_path: Path) -> None:
    flow = Flow(family)
    flow.initialize(pictures)
    Bundle("toy", flow).save(tmp_path / "toy.safetensors")
    loaded = Bundle.load(tmp_path / "toy.safetensors").flow
    assert loaded.config == family
    for ours, theirs in zip(flow.encode(pictures), loaded.encode(pictures), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(loaded.sample(2, seed=3), flow.sample(2, seed=3))
