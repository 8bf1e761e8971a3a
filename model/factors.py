"""A prior of the last parts of latents in which their numbers vary together: factor analysis.

However long a flow was trained, latents of faces are not quite independent numbers: light, pose and
age move hundreds of them at once, so that along some hundred lines their variance is up to ten
times that of the standard Gaussian. What is drawn from that one is pieces of faces. So a Gaussian
is fitted to the latents of the training images, and likelihoods are exact as before.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

SPARE = 32  # dimensions beyond the factors asked for, which find them better
ROUNDS = 3  # of finding factors by what is each number's own, and that by them
LEAST_OWN = 0.05  # of a number's variance, that no factor has part in


class Density(NamedTuple):
    """Of a `FactorPrior`, whose covariance is inverted by Woodbury's identity: with e the scaled
    distance from the mean, z' C^-1 z is |e|^2 - |projection' e|^2."""

    mean: Tensor  # (dimensions,)
    scale: Tensor  # (dimensions,)
    projection: Tensor  # (dimensions, factors)
    log_det: Tensor  # of the covariance's root

    def log_prob(self, z: Tensor) -> Tensor:
        """In nats, (B,), of z, (B, dimensions)."""
        with torch.autocast(z.device.type, enabled=False):
            e = (z - self.mean) / self.scale
            squares = e.square().sum(1) - (e @ self.projection).square().sum(1)
            return -0.5 * (squares + z.shape[1] * math.log(2 * math.pi)) - self.log_det


class FactorPrior(nn.Module):
    """A Gaussian of flat z, (B, dimensions): z = mean + loadings f + exp(log_scale) e, with factors
    f, (B, factors), and e of the standard Gaussian (factor analysis; Bishop 2006, 12.2.4)."""

    def __init__(self, dimensions: int, factors: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimensions))
        self.log_scale = nn.Parameter(torch.zeros(dimensions))
        self.loadings = nn.Parameter(torch.zeros(dimensions, factors))

    def density(self, dtype: torch.dtype) -> "Density":
        """That of the Gaussian as it now is; it costs more to make than to ask once."""
        mean, log_scale, loadings = (
            each.to(dtype) for each in (self.mean, self.log_scale, self.loadings)
        )
        scale = log_scale.exp()
        with torch.autocast(mean.device.type, enabled=False):
            scaled = loadings / scale[:, None]
            within = torch.linalg.cholesky(
                torch.eye(scaled.shape[1]).to(scaled) + scaled.T @ scaled
            )
            projection = torch.linalg.solve_triangular(within, scaled.T, upper=False).T
            log_det = log_scale.sum() + within.diagonal().log().sum()
        return Density(mean, scale, projection, log_det)

    def of_standard(self, own: Tensor, factors: Tensor) -> Tensor:
        """z of e, (B, dimensions), and f, (B, factors)."""
        return self.mean + factors @ self.loadings.T + own * self.log_scale.exp()


@torch.no_grad()
def fitted(z: Tensor, most: int) -> FactorPrior:
    """The prior of flat latents z, (images, dimensions), float32, with as many factors as stand out
    of what chance gives so few images, and `most` at most. It works in z, which is lost: that may
    well be gigabytes.

    The factors are the first principal components of z, each number divided by what deviation is
    its own, with the variances of `shrunk`; what they leave of a number's variance is its own, by
    which they are found again.

    Raises ValueError where nothing stands out.
    """
    deviation, mean = torch.std_mean(z, dim=0)
    own = deviation.clamp(min=1e-6)
    variance = own.square()
    z.sub_(mean).div_(own)
    for _ in range(ROUNDS):
        components, variances = _components(z, most)
        if not len(variances):
            raise ValueError(
                f"no factor stands out of what chance gives {len(z)} latents of {z.shape[1]} "
                "numbers"
            )
        loadings = components * (variances - 1).sqrt() * own[:, None]
        rest = (variance - loadings.square().sum(1)).maximum(LEAST_OWN * variance).sqrt()
        z.mul_(own / rest)
        own = rest
    prior = FactorPrior(*loadings.shape)
    prior.mean.copy_(mean)
    prior.log_scale.copy_(own.log())
    prior.loadings.copy_(loadings)
    return prior


def _components(z: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The principal components of z that stand out, (dimensions, factors), and what new images vary
    along them, (factors,)."""
    # the random start is from torch's own generator, and should be the same in each run
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, singular, components = torch.svd_lowrank(z, min(most + SPARE, *z.shape), niter=3)
    variances = shrunk(singular[:most].double().square() / len(z), z.shape[1] / len(z)).to(z)
    return components[:, : len(variances)], variances


def shrunk(variances: Tensor, aspect: float) -> Tensor:
    """What images that were not looked at vary along principal components, of which those that were
    vary by `variances`, falling, where all else varies by 1 and there are `aspect` times as many
    numbers as images; those that chance alone gives are left out.

    A true variance l comes out as l + aspect l / (l - 1), along a component whose squared cosine
    with the true one is c = (1 - aspect / (l - 1)^2) / (1 + aspect / (l - 1)); images vary by
    c l + 1 - c along that (Donoho, Gavish & Johnstone 2018, whose shrinker for entropy loss this
    is).
    """
    variances = variances[variances > (1 + math.sqrt(aspect)) ** 2]
    middle = variances + 1 - aspect
    true = (middle + (middle.square() - 4 * variances).sqrt()) / 2
    squared_cosine = (1 - aspect / (true - 1).square()) / (1 + aspect / (true - 1))
    return squared_cosine * true + 1 - squared_cosine
