"""A grown flow is the one that it grew from, until it learns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import FlowConfig
from model.flow import Flow
from model.grow import grown
from model.train import TrainConfig, Trainer

CONFIG = FlowConfig(resolution=16, steps=(2, 3), hidden=(8, 8))
DEEPER = replace(CONFIG, steps=(4, 7))


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


def test_a_deeper_flow_maps_as_before(flow: Flow, images: Tensor) -> None:
    deeper = grown(flow, DEEPER)
    assert deeper.config == DEEPER
    for ours, theirs in zip(deeper.encode(images), flow.encode(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    noise = torch.rand(images.shape)
    y = flow.dequantize(images, noise)
    torch.testing.assert_close(deeper.log_density(y), flow.log_density(y))


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


def test_the_flow_it_grew_from_is_left_alone(flow: Flow, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    trainer = Trainer(grown(flow, DEEPER), images, TrainConfig(steps=2, batch=4))
    trainer.train_step()
    assert all(torch.equal(before[name], tensor) for name, tensor in flow.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": (8, 16)}, "not in hidden"),
        ({"steps": (2, 4)}, "level 1 of 3 steps grows by pairs of steps, not to 4"),
        ({"steps": (1, 3)}, "level 0 of 2 steps grows by pairs of steps, not to 1"),
        ({"resolution": 32, "coupling": "additive"}, "not in resolution, coupling"),
    ],
)
def test_what_is_no_growth_is_refused(
    flow: Flow, change: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        grown(flow, replace(CONFIG, **change))


def test_without_1x1_convolutions_a_flow_goes_on_as_deep_as_it_is(images: Tensor) -> None:
    config = replace(CONFIG, permutation="reverse")
    flow = Flow(config)
    assert all(
        torch.equal(a, b)
        for a, b in zip(grown(flow, config).encode(images), flow.encode(images), strict=True)
    )
    with pytest.raises(ValueError, match="only a flow with 1x1 convolutions"):
        grown(flow, replace(config, steps=DEEPER.steps))
