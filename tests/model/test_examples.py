import pytest
import torch

from model.examples import from_few

DIMENSIONS = 400


def latents(count: int, mean: torch.Tensor) -> torch.Tensor:
    return mean + torch.randn(count, DIMENSIONS, dtype=torch.float64)


@pytest.fixture
def known() -> torch.Tensor:
    """Directions of other attributes, all in the first 40 dimensions."""
    torch.manual_seed(0)
    vectors = torch.zeros(8, DIMENSIONS, dtype=torch.float64)
    vectors[:, :40] = torch.randn(8, 40, dtype=torch.float64) * 0.5
    return vectors


def test_without_known_directions_it_is_the_difference_of_means() -> None:
    positive, negative = latents(3, torch.ones(DIMENSIONS)), latents(4, torch.zeros(DIMENSIONS))
    vector, _ = from_few(positive, negative, torch.empty(0, DIMENSIONS, dtype=torch.float64))
    assert torch.allclose(vector, positive.mean(0) - negative.mean(0))


def test_the_means_read_a_half_each_way(known: torch.Tensor) -> None:
    positive, negative = latents(5, known[0]), latents(3, -known[0])
    vector, origin = from_few(positive, negative, known)
    for group, reading in ((positive, 0.5), (negative, -0.5)):
        mean = group.mean(0) @ vector / vector.square().sum() - origin
        assert mean.item() == pytest.approx(reading)


def test_it_is_the_posterior_mean(known: torch.Tensor) -> None:
    """Against the textbook's formula with whole matrices."""
    positive, negative = latents(3, known[0]), latents(3, -known[0])
    second = known.T @ known / len(known)
    covariance = second + second.diagonal().diag()
    noise = 2 / 3 * torch.eye(DIMENSIONS, dtype=torch.float64)
    expected = (
        covariance @ torch.linalg.inv(covariance + noise) @ (positive.mean(0) - negative.mean(0))
    )
    vector, _ = from_few(positive, negative, known)
    assert torch.allclose(vector / vector.norm(), expected / expected.norm(), atol=1e-10)


def test_it_is_nearer_the_truth_than_the_difference_of_means(known: torch.Tensor) -> None:
    truth, known = known[0], known[1:]
    gained = []
    for _ in range(10):
        positive, negative = latents(3, truth / 2), latents(3, -truth / 2)
        found = [
            torch.cosine_similarity(vector, truth, dim=0)
            for vector in (
                from_few(positive, negative, known)[0],
                positive.mean(0) - negative.mean(0),
            )
        ]
        gained.append(found[0] - found[1])
    assert min(gained) > 0


def test_many_examples_outweigh_what_was_known(known: torch.Tensor) -> None:
    truth = torch.zeros(DIMENSIONS, dtype=torch.float64)
    truth[:40] = torch.randn(40, dtype=torch.float64)
    positive, negative = latents(20_000, truth / 2), latents(20_000, -truth / 2)
    vector, _ = from_few(positive, negative, known)
    assert torch.cosine_similarity(vector, truth, dim=0) > 0.99
