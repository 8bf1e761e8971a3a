"""A prior of the last parts of latents in which their numbers vary together: factor analysis.

A flow that is trained for hours is not long enough trained for the latents of faces to be
independent: what light, pose and age leave in all levels at once varies along some hundred
directions up to ten times as much as a standard Gaussian. Drawn from that one, faces come out
broken. So the Gaussian is fitted anew to the latents of the training images, exact as before.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

SPARE = 32  # dimensions beyond the factors asked for, which find them better
LEAST_OWN = 0.05  # of a number's variance, that no factor has part in


class FactorPrior(nn.Module):
    """A Gaussian of flat z, (B, dimensions): z = mean + loadings f + exp(log_scale) e, with factors
    f, (B, factors), and e of the standard Gaussian (factor analysis; Bishop 2006, 12.2.4)."""

    def __init__(self, dimensions: int, factors: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimensions))
        self.log_scale = nn.Parameter(torch.zeros(dimensions))
        self.loadings = nn.Parameter(torch.zeros(dimensions, factors))

    def distribution(self, dtype: torch.dtype) -> LowRankMultivariateNormal:
        """The Gaussian as it now is; it costs more to make than to ask once."""
        mean, log_scale, loadings = (
            each.to(dtype) for each in (self.mean, self.log_scale, self.loadings)
        )
        with torch.autocast(mean.device.type, enabled=False):
            variance = (2 * log_scale).exp()
            return LowRankMultivariateNormal(mean, loadings, variance, validate_args=False)

    def of_standard(self, own: Tensor, factors: Tensor) -> Tensor:
        """z of e, (B, dimensions), and f, (B, factors)."""
        return self.mean + factors @ self.loadings.T + own * self.log_scale.exp()


@torch.no_grad()
def fitted(z: Tensor, most: int) -> FactorPrior:
    """The prior of flat latents z, (images, dimensions), float32, with as many factors as stand out
    of what chance gives so few images, and `most` at most. It works in z, which is lost: that may
    well be gigabytes.

    The factors are the first principal components of z, each number divided by its deviation, with
    the variances of `shrunk`; what they leave of a number's variance is its own.

    Raises ValueError where nothing stands out.
    """
    deviation, mean = torch.std_mean(z, dim=0)
    deviation = deviation.clamp(min=1e-6)
    z.sub_(mean).div_(deviation)
    # the random start is from torch's own generator, and should be the same in each run
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, singular, components = torch.svd_lowrank(z, min(most + SPARE, *z.shape), niter=3)
    variances = shrunk(singular[:most].double().square() / len(z), z.shape[1] / len(z)).to(z)
    if not len(variances):
        raise ValueError(
            f"no factor stands out of what chance gives {len(z)} latents of {z.shape[1]} numbers"
        )
    loadings = components[:, : len(variances)] * (variances - 1).sqrt()
    own = (1 - loadings.square().sum(1)).clamp(min=LEAST_OWN)
    prior = FactorPrior(*loadings.shape)
    prior.mean.copy_(mean)
    prior.log_scale.copy_(deviation.log() + own.log() / 2)
    prior.loadings.copy_(loadings * deviation[:, None])
    return prior


def shrunk(variances: Tensor, aspect: float) -> Tensor:
    """What images that were not looked at vary along principal components, of which those that were
    vary by `variances`, falling, where all else varies by 1 and there are `aspect` times as many
    numbers as images. Those that chance alone gives are left out.

    A true variance l comes out as l + aspect l / (l - 1), along a component whose squared cosine
    with the true one is c = (1 - aspect / (l - 1)^2) / (1 + aspect / (l - 1)); images vary by
    c l + 1 - c along that (Donoho, Gavish & Johnstone 2018, whose shrinker
    for entropy loss this is).
    """
    variances = variances[variances > (1 + math.sqrt(aspect)) ** 2]
    middle = variances + 1 - aspect
    true = (middle + (middle.square() - 4 * variances).sqrt()) / 2
    cosine = (1 - aspect / (true - 1).square()) / (1 + aspect / (true - 1))
    return cosine * true + 1 - cosine
