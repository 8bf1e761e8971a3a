"""The probe learns what is to be seen in pictures, and nothing else."""

import pytest
import torch
from torch import Tensor

from model.attributes import Readings
from model.probe import Probe, judge, judge_images, train


def pictures_of(signs: Tensor, seed: int) -> Tensor:
    """Noise, with a square in the middle that is bright where the first sign is 1; of the second
    sign there is nothing to see."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(60, 140, (len(signs), 3, 32, 32), generator=generator)
    pictures[:, :, 12:20, 12:20] += 100 * (signs[:, 0, None, None, None] == 1)
    return pictures.to(torch.uint8)


def signs_of(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, 2), generator=generator).double() * 2 - 1


@pytest.fixture(scope="module")
def probe() -> Probe:
    signs = signs_of(128, seed=0)
    images = pictures_of(signs, seed=1)
    unknown = signs.clone()
    unknown[::4] = 0
    images[::4] = 255 - images[::4]  # what unknown labels would teach is wrong
    return train(["seen", "unseen"], images, unknown, epochs=6, batch=8)


def test_learns_what_is_to_be_seen(probe: Probe) -> None:
    signs = signs_of(128, seed=2)
    readings = Readings(judge_images(probe, pictures_of(signs, seed=3)), signs)
    assert readings.auc(0) > 0.95
    right = (readings.values[:, 0] > 0) == (signs[:, 0] > 0)
    assert right.float().mean() > 0.85


def test_learns_nothing_of_what_is_not(probe: Probe) -> None:
    signs = signs_of(128, seed=2)
    readings = Readings(judge_images(probe, pictures_of(signs, seed=3)), signs)
    assert 0.35 < readings.auc(1) < 0.65


def test_is_the_same_for_a_seed_and_leaves_others_chance_alone() -> None:
    signs = signs_of(8, seed=0)
    images = pictures_of(signs, seed=1)
    torch.manual_seed(5)
    first = train(["a", "b"], images, signs, epochs=1)  # of fewer pictures than a batch
    drawn = torch.rand(1)
    second = train(["a", "b"], images, signs, epochs=1)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_a_rare_attribute_weighs_as_much_as_its_absence() -> None:
    """With four of its kind among sixty-four, it still says yes to most of them."""
    signs = -torch.ones(64, 1)
    signs[::16] = 1
    images = pictures_of(signs, seed=1)
    probe = train(["seen"], images, signs, epochs=12, batch=8)
    fresh = pictures_of(torch.ones(16, 1), seed=3)
    assert (judge_images(probe, fresh) > 0).float().mean() > 0.5


def test_judges_pictures_of_any_size_clipped(probe: Probe) -> None:
    pictures = torch.rand(3, 3, 48, 48)
    pictures[0, 0, 0, 0], pictures[1, 2, 5, 5] = 40.0, -40.0
    expected = probe(pictures.clamp(0, 1))
    torch.testing.assert_close(judge(probe, pictures, batch=2), expected, rtol=1e-4, atol=1e-4)
