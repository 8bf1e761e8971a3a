"""The cheeks' light, and directions that leave it."""

import pytest
import torch
from torch import Tensor

from model.config import FlowConfig
from model.flow import Flow
from model.skin import cheeks, kept, luminance


@pytest.fixture
def flow() -> Flow:
    return Flow(FlowConfig(resolution=16, steps=(1, 1), hidden=(4, 4))).requires_grad_(False)


@pytest.fixture
def faces() -> Tensor:
    """Flat grey pictures of ten shades, far from black and white."""
    return torch.arange(90, 140, 5).to(torch.uint8)[:, None, None, None].expand(10, 3, 16, 16)


def test_luminance_is_the_eyes() -> None:
    colours = torch.eye(3)[:, :, None, None]  # pure red, green, blue
    found = luminance(colours).flatten() / 255
    torch.testing.assert_close(found, torch.tensor([0.299, 0.587, 0.114]))
    assert luminance(torch.full((1, 3, 1, 1), 7.0)).item() == pytest.approx(255)


def test_cheeks_see_the_cheeks_alone() -> None:
    pictures = torch.zeros(3, 3, 64, 64)
    pictures[1, :, 32:38, 15:19] = 1  # the left one
    pictures[2, :, :30] = 1  # brow and eyes
    dark, left, brow = cheeks(pictures).tolist()
    assert dark == brow == 0
    assert left > 60


def test_a_direction_is_freed_of_light(flow: Flow, faces: Tensor) -> None:
    with torch.inference_mode():
        z = flow.flatten(flow.encode(faces))
        wider = faces.clone()
        wider[..., :2] += 40  # changes away from the cheeks
        light = z[9] - z[0]
        mouth = (flow.flatten(flow.encode(wider)) - z).mean(0)
        mixed = mouth + 0.5 * light

        def effect(vector: Tensor) -> float:
            moved = flow.decode(flow.unflatten(z + vector))
            return (cheeks(moved) - cheeks(flow.decode(flow.unflatten(z)))).mean().item()

        assert effect(mixed) > 15
        (found,) = kept(flow, mixed[None], light, z)
        assert abs(effect(found)) < 1
        torch.testing.assert_close(found, mouth, rtol=0, atol=0.05)
