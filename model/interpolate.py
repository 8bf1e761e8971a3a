"""Between two latents."""

import numpy as np
from numpy.typing import NDArray

Latent = NDArray[np.float64]

PARALLEL = 1e-6  # sine of the angle under which a sphere is as good as flat


def spherical(a: Latent, b: Latent, t: float, sizes: list[int]) -> Latent:
    """The latent at share t of the way from a to b, both flat, with parts of `sizes` numbers: a
    itself at 0 and b at 1.

    A Gaussian of many dimensions lies near a sphere, so that the middle of a straight line is
    shorter than any face's latent and decodes to a face too smooth to be one. Each part is a
    Gaussian of its own, so each goes along its own great circle (Shoemake 1985), its length from
    that of a's to that of b's. Parts without an angle between them (alike, opposite, or zero) go
    straight.
    """
    if t in (0, 1):
        return b if t else a
    borders = np.cumsum(sizes)[:-1]
    parts = zip(np.split(a, borders), np.split(b, borders), strict=True)
    return np.concatenate([_along(*pair, t) for pair in parts])


def _along(a: Latent, b: Latent, t: float) -> Latent:
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return (1 - t) * a + t * b
    cosine = np.clip(a @ b / (lengths[0] * lengths[1]), -1, 1)
    angle = np.arccos(cosine)
    if np.sin(angle) < PARALLEL:
        return (1 - t) * a + t * b
    length = (1 - t) * lengths[0] + t * lengths[1]
    towards = np.sin((1 - t) * angle) / lengths[0] * a + np.sin(t * angle) / lengths[1] * b
    along: Latent = length / np.sin(angle) * towards
    return along
