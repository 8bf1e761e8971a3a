"""A grown flow is the one that it grew from, on the same pictures or on their halves, until it
learns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import FlowConfig
from model.factors import FactorPrior
from model.flow import Flow
from model.grow import DETAIL_GAIN, grown, with_factors
from model.layers import CouplingNetwork
from model.train import TrainConfig, Trainer

CONFIG = FlowConfig(resolution=16, steps=(2, 3), hidden=(8, 8))
DEEPER = replace(CONFIG, steps=(4, 7))
WIDER = replace(CONFIG, hidden=(8, 10))
LARGER = replace(DEEPER, hidden=(12, 10))
FINER = replace(CONFIG, resolution=32, steps=(5, 4, 3), hidden=(4, 8, 8), kept=(3,))


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.fixture
def flow(images: Tensor) -> Flow:
    torch.manual_seed(0)
    flow = Flow(CONFIG)
    trainer = Trainer(flow, images, TrainConfig(steps=4, batch=4))
    trainer.initialize()
    for _ in range(4):
        trainer.train_step()
    return flow


@pytest.mark.parametrize("config", [DEEPER, WIDER, LARGER], ids=["deeper", "wider", "both"])
def test_a_larger_flow_maps_as_before(flow: Flow, images: Tensor, config: FlowConfig) -> None:
    larger = grown(flow, config)
    assert larger.config == config
    for ours, theirs in zip(larger.encode(images), flow.encode(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    noise = torch.rand(images.shape)
    y = flow.dequantize(images, noise)
    torch.testing.assert_close(larger.log_density(y), flow.log_density(y))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_a_wider_flow_of_any_family_maps_as_before(
    images: Tensor, perturb: Callable[..., Flow], depth: int, residual: bool
) -> None:
    config = replace(
        CONFIG, permutation="reverse", checkerboard=(1, 1), depth=depth, residual=residual
    )
    flow = perturb(Flow(config))
    wider = grown(flow, replace(config, hidden=(8, 12)))
    y = flow.dequantize(images)
    torch.testing.assert_close(wider.log_density(y), flow.log_density(y))
    torch.testing.assert_close(wider.inverse(flow(y)[0]), y, rtol=0, atol=1e-3)
    for module in wider.modules():
        if isinstance(module, CouplingNetwork) and not residual:
            last = [module.middle, *module.further][-1].weight
            assert not last[8:].norm() > 0.3 * last[:8].norm()


def test_a_finer_flow_maps_the_means_of_pixels_as_before(flow: Flow, images: Tensor) -> None:
    finer = grown(flow, FINER)
    assert finer.config == FINER
    y = flow.dequantize(F.interpolate(images.float(), 32, mode="bilinear"))
    details, *coarse = finer(y)[0]
    for ours, theirs in zip(coarse, flow(F.avg_pool2d(y, 2))[0], strict=True):
        torch.testing.assert_close(ours, theirs)
    # horizontal, vertical and diagonal differences of 2x2 pixels, each of three channels
    rows, columns = y[:, :, ::2] - y[:, :, 1::2], y[..., ::2] - y[..., 1::2]
    differences = [
        F.avg_pool2d(columns, (2, 1)) / 2,
        F.avg_pool2d(rows, (1, 2)) / 2,
        (rows[..., ::2] - rows[..., 1::2]) / 4,
    ]
    torch.testing.assert_close(details, DETAIL_GAIN * torch.cat(differences, 1))
    torch.testing.assert_close(finer.inverse([details, *coarse]), y)


def test_a_finer_flow_learns(flow: Flow, images: Tensor) -> None:
    finer = grown(flow, FINER)
    before = {name: parameter.clone() for name, parameter in finer.named_parameters()}
    pictures = F.interpolate(images.float(), 32, mode="bilinear").to(torch.uint8)
    trainer = Trainer(finer, pictures, TrainConfig(steps=8, batch=4, settle=0))
    for _ in range(6):
        trainer.train_step()
    assert not [name for name, p in finer.named_parameters() if torch.equal(p, before[name])]
    assert torch.equal(flow.quantize(finer.decode(finer.encode(pictures))), pictures)


def test_a_finer_flow_keeps_its_classes() -> None:
    flow = Flow(replace(CONFIG, classes=2))
    torch.nn.init.normal_(flow.prior.class_mean)
    torch.nn.init.normal_(flow.classifier.weight)
    finer, labels = grown(flow, replace(FINER, steps=(1, 2, 3), classes=2)), torch.tensor([0, 1])
    y = torch.rand(2, 3, 32, 32) - 0.5
    ours, theirs = finer(y, labels)[0][1:], flow(F.avg_pool2d(y, 2), labels)[0]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(finer.class_logits(ours, labels), flow.class_logits(theirs, labels))


@pytest.mark.parametrize("config", [CONFIG, DEEPER, FINER], ids=["same", "deeper", "finer"])
def test_factors_are_left_behind(
    flow: Flow, config: FlowConfig, perturb: Callable[..., FactorPrior]
) -> None:
    prior = perturb(FactorPrior(CONFIG.dimensions, 2))
    ours, theirs = grown(with_factors(flow, prior, 2), config), grown(flow, config)
    assert ours.config == config
    torch.manual_seed(0)
    y = torch.rand(2, 3, config.resolution, config.resolution) - 0.5
    torch.testing.assert_close(ours.log_density(y), theirs.log_density(y))


def test_the_new_steps_learn(flow: Flow, images: Tensor) -> None:
    deeper = grown(flow, DEEPER)
    levels = zip(deeper.levels, CONFIG.steps, strict=True)
    new = [step for level, kept in levels for step in list(level.steps)[kept:]]
    assert len(new) == 6
    before = [parameter.clone() for step in new for parameter in step.parameters()]
    trainer = Trainer(deeper, images, TrainConfig(steps=8, batch=4, settle=0))
    for _ in range(6):
        trainer.train_step()
    after = [parameter for step in new for parameter in step.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(flow.quantize(deeper.decode(deeper.encode(images))), images)


def test_the_new_hidden_channels_learn(flow: Flow, images: Tensor) -> None:
    wider = grown(flow, WIDER)
    before = [parameter.clone() for parameter in wider.levels[1].parameters()]
    trainer = Trainer(wider, images, TrainConfig(steps=8, batch=4, settle=0))
    for _ in range(6):
        trainer.train_step()
    for old, new in zip(before, wider.levels[1].parameters(), strict=True):
        if 10 in new.shape:  # of a network: what is new in it
            beyond = torch.ones_like(old, dtype=torch.bool)
            beyond[tuple(slice(8 if size == 10 else size) for size in old.shape)] = False
            assert beyond.any()
            assert (new != old)[beyond].any()


def test_the_flow_it_grew_from_is_left_alone(flow: Flow, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    trainer = Trainer(grown(flow, DEEPER), images, TrainConfig(steps=2, batch=4))
    trainer.train_step()
    assert all(torch.equal(before[name], tensor) for name, tensor in flow.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": (8, 6)}, "level 1 of 8 hidden channels does not shrink to 6"),
        ({"steps": (2, 4)}, "level 1 of 3 steps grows by pairs of steps, not to 4"),
        ({"steps": (1, 3)}, "level 0 of 2 steps grows by pairs of steps, not to 1"),
        ({"bits": 5, "coupling": "additive"}, "not in bits, coupling"),
        ({"factors": 2, "factor_levels": 1}, "not in factors, factor_levels"),
        ({"resolution": 8}, "not in resolution"),
        ({**vars(FINER), "coupling": "additive"}, "not in coupling"),
        ({**vars(FINER), "resolution": 64}, "not in resolution"),
        ({**vars(FINER), "kept": ()}, r"keeps the 3 channels of a picture .*, not \(\) and 5"),
        ({**vars(FINER), "steps": (6, 4, 3)}, r"one step and some fours, not \(3,\) and 6"),
        ({**vars(FINER), "steps": (5, 4, 4)}, "level 1 of 3 steps grows by pairs of steps"),
    ],
)
def test_what_is_no_growth_is_refused(flow: Flow, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grown(flow, replace(CONFIG, **change))


def test_without_1x1_convolutions_a_flow_goes_on_as_deep_as_it_is(images: Tensor) -> None:
    config = replace(CONFIG, permutation="reverse")
    flow = Flow(config)
    assert all(
        torch.equal(a, b)
        for a, b in zip(grown(flow, config).encode(images), flow.encode(images), strict=True)
    )
    with pytest.raises(ValueError, match=r"only a flow with 1x1 convolutions .* more steps"):
        grown(flow, replace(config, steps=DEEPER.steps))
