from itertools import pairwise

import numpy as np
import pytest

from model.interpolate import spherical

SIZES = [300, 100]
RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 400)) * np.repeat([1.0, 3.0], SIZES)


def lengths(latent: np.ndarray) -> list[float]:
    return [float(np.linalg.norm(part)) for part in np.split(latent, [300])]


def test_its_ends_are_the_latents_bit_for_bit() -> None:
    assert (spherical(A, B, 0, SIZES) == A).all()
    assert (spherical(A, B, 1, SIZES) == B).all()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_every_part_keeps_its_length(t: float) -> None:
    expected = [(1 - t) * a + t * b for a, b in zip(lengths(A), lengths(B), strict=True)]
    assert lengths(spherical(A, B, t, SIZES)) == pytest.approx(expected)


def test_it_turns_evenly() -> None:
    steps = [spherical(A, B, t, SIZES)[:300] for t in np.linspace(0, 1, 6)]
    units = [step / np.linalg.norm(step) for step in steps]
    angles = [np.arccos(a @ b) for a, b in pairwise(units)]
    assert angles == pytest.approx([angles[0]] * 5)


def test_backwards_is_the_same_way() -> None:
    assert spherical(A, B, 0.3, SIZES) == pytest.approx(spherical(B, A, 0.7, SIZES))


@pytest.mark.parametrize(
    "b", [A, 2 * A, -A, np.zeros(400)], ids=["same", "longer", "opposite", "0"]
)
def test_where_there_is_no_angle_it_goes_straight(b: np.ndarray) -> None:
    assert spherical(A, b, 0.25, SIZES) == pytest.approx(0.75 * A + 0.25 * b)
