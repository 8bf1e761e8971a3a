"""The flow, multi-scale (Glow, figure 2b) or flat (NICE): images to latents and back, with exact
likelihood."""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.config import FlowConfig
from model.factors import Density, FactorPrior
from model.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    ChannelPermutation,
    CheckerboardCoupling,
    CouplingNetwork,
    Flatten,
    GaussianPrior,
    Invertible1x1,
    Layer,
    NewNetwork,
    Split,
    Squeeze,
    exponential_noise,
    module_list,
    standard_logistic_log_prob,
    standard_normal_log_prob,
)
from model.reversible import run as run_reversible

Latent = list[Tensor]  # one part per level: (B, *config.part_shapes[i])


def _normalisation(config: FlowConfig, channels: int) -> list[Layer]:
    return [ActNorm(channels)] if config.normalisation == "actnorm" else []


def _permutation(config: FlowConfig, channels: int) -> Layer:
    match config.permutation:
        case "invertible_1x1":
            return Invertible1x1(channels)
        case "shuffle":
            return ChannelPermutation(torch.randperm(channels))
        case "reverse":
            return ChannelPermutation(torch.arange(channels).flip(0))


def _network(config: FlowConfig) -> NewNetwork:
    kernel = 1 if config.flat else 3
    return partial(CouplingNetwork, depth=config.depth, residual=config.residual, kernel=kernel)


def _coupling(config: FlowConfig, channels: int, hidden: int) -> Layer:
    match config.coupling:
        case "affine":
            return AffineCoupling(channels, hidden, config.log_scale_bound, _network(config))
        case "additive":
            return AdditiveCoupling(channels, hidden, _network(config))


def _checkerboard(config: FlowConfig, channels: int, hidden: int, parity: int) -> Layer:
    bound = config.log_scale_bound if config.coupling == "affine" else None
    return CheckerboardCoupling(channels, hidden, parity, bound, _network(config))


class Level(nn.Module):
    """Couplings on a checkerboard, if any; squeeze, or flatten; then steps of normalisation,
    permutation and coupling. `shape` is that of what goes in."""

    def __init__(self, config: FlowConfig, level: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        hidden = config.hidden[level]
        channels, height, width = shape
        self.checkerboard = module_list(
            Chain(
                *_normalisation(config, channels),
                _checkerboard(config, channels, hidden, parity=i % 2),
            )
            for i in range(config.checkerboard[level] if config.checkerboard else 0)
        )
        self.squeeze = Flatten(shape) if config.flat else Squeeze()
        channels *= height * width if config.flat else 4
        self.steps = module_list(
            Chain(
                *_normalisation(config, channels),
                _permutation(config, channels),
                _coupling(config, channels, hidden),
            )
            for _ in range(config.steps[level])
        )

    @property
    def stages(self) -> list[Layer]:
        return [*self.checkerboard, self.squeeze, *self.steps]

    def initialize(self, x: Tensor) -> None:
        for stage in self.stages:
            stage.initialize(x)
            x, _ = stage(x)

    def forward(self, x: Tensor, reversible: bool = False) -> tuple[Tensor, Tensor]:
        if reversible and torch.is_grad_enabled():
            before, after = (
                [layer for step in steps for layer in step.layers]
                for steps in (self.checkerboard, self.steps)
            )
            return run_reversible([*before, self.squeeze, *after], x)
        log_det = x.new_zeros(x.shape[0])
        for stage in self.stages:
            x, change = stage(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for stage in reversed(self.stages):
            y = stage.inverse(y)
        return y


class Flow(nn.Module):
    """A bijection between images and latents of a standard prior, Gaussian or logistic, or of a
    Gaussian that varies by common factors (`model.factors`).

    Images are uint8 (B, C, H, W) with values below 2**bits. `forward` and `inverse` work on the
    continuous image y in [-0.5, 0.5]; `encode`, `decode` and `log_prob` on the picture itself.
    Where `reversible` is set, backward rebuilds activations instead of storing them.

    Where the config has classes, `labels` (B,), int64, say of which class each image is; what is
    encoded with a label decodes with the same one. Without labels no class has a part in it.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.reversible = False
        self.bins = 2**config.bits
        shapes = config.input_shapes
        self.levels = module_list(Level(config, i, shape) for i, shape in enumerate(shapes))
        self.splits = module_list(
            Split(4 * channels, kept) for (channels, *_), (kept, *_) in pairwise(shapes)
        )
        self.prior = GaussianPrior(config.part_shapes[-1], config.classes)
        self.common: FactorPrior | None = None
        if config.factors:
            self.common = FactorPrior(config.factor_dimensions, config.factors)
        if config.classes:
            self.classifier = nn.Linear(config.part_shapes[-1][0], config.classes)
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    @property
    def device(self) -> torch.device:
        return self.prior.mean.device

    def initialize(self, images: Tensor, noise: Tensor | None = None) -> None:
        """Set every ActNorm from one batch of images (uint8); where there is none, the prior."""
        with torch.no_grad():
            x = self.dequantize(images, noise)
            for i, level in enumerate(self.levels):
                level.initialize(x)
                x, _ = level(x)
                if i < len(self.splits):
                    x, _, _ = self.splits[i](x)
            if self.config.normalisation == "none":
                self.prior.initialize(x)

    def forward(self, y: Tensor, labels: Tensor | None = None) -> tuple[Latent, Tensor]:
        """The latent of y, (B, C, H, W), and log |det dz/dy| in nats, (B,)."""
        parts: Latent = []
        log_det = y.new_zeros(y.shape[0])
        for i, level in enumerate(self.levels):
            y, change = level(y, self.reversible)
            log_det = log_det + change
            if i < len(self.splits):
                y, part, change = self.splits[i](y)
                parts.append(part)
                log_det = log_det + change
        part, change = self.prior(y, labels)
        return [*parts, part], log_det + change

    def inverse(self, latent: Latent, labels: Tensor | None = None) -> Tensor:
        """The continuous image y of a latent."""
        y: Tensor = self.prior.inverse(latent[-1], labels)
        for i in reversed(range(len(self.levels))):
            if i < len(self.splits):
                y = self.splits[i].inverse(y, latent[i])
            y = self.levels[i].inverse(y)
        return y

    def condition(self) -> float:
        """The largest condition number of a 1x1 convolution; not a number where one is broken."""
        found = [m.condition() for m in self.modules() if isinstance(m, Invertible1x1)]
        return math.nan if any(map(math.isnan, found)) else max(found, default=1.0)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Latent:
        """The latent of each image (uint8), taken at the middle of its 8-bit bins, in float64.

        The path of x is in float64 here and in decode: in float32 its rounding, magnified on the
        way back, can reach the next bin in pictures far from any face. The networks, which take
        the time, keep the precision of their weights and see x rounded (`model.layers.seen`).
        """
        latent: Latent = self(self.dequantize(images.double(), noise=0.5), labels)[0]
        return latent

    def decode(self, latent: Latent, labels: Tensor | None = None) -> Tensor:
        """Images of a latent as floats; [0, 1] is the range of a picture, `quantize` rounds."""
        images = self.inverse([part.double() for part in latent], labels) + 0.5
        return images.to(self.prior.mean.dtype)

    def log_prob(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
        lean: float = 0,
    ) -> Tensor:
        """log P(image) in nats, (B,), under uniform dequantization: the one-sample form of the
        lower bound log P(x) >= E_u log p(x + u) (Theis et al. 2016, eq. 13).

        Any noise gives such a bound, E_q[log p(x + u) - log q(u | x)] (Ho et al. 2019, eq. 12), and
        that is tightest whose density is the flow's own within the bin. With `lean`, that share of
        the slope that log p has at the bin's middle is the slope of log q. It takes the gradient.
        """
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        if not lean:
            return self.log_density(self.dequantize(images, noise), labels)
        slope = lean * self._slope(images, labels)
        noise, log_q = exponential_noise(noise, slope)
        log_p = self.log_density(self.dequantize(images, noise), labels)
        return log_p - log_q.flatten(1).sum(1)

    @torch.enable_grad()
    def _slope(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Of log p at the middle of each bin, per bin."""
        middle = self.dequantize(images, 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(self.log_density(middle, labels).sum(), middle)
        per_bin: Tensor = slope / self.bins
        return per_bin

    def log_density(self, y: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(y), scaled to the volume of one bin so that it is the log_prob of the image that
        y was dequantized from."""
        return self.log_density_of(*self(y, labels))

    def log_density_of(
        self, latent: Latent, log_det: Tensor, common: Density | None = None
    ) -> Tensor:
        """`log_density` of what `forward` gives; `common` is that of the prior with factors, from
        whoever asks more than once."""
        alone = self.config.levels - self.config.factor_levels
        log_priors = [self._log_prior(part) for part in latent[:alone]]
        if self.common:
            together = self.flatten(latent[alone:])
            common = common or self.common.density(together.dtype)
            log_priors.append(common.log_prob(together))
        log_density: Tensor = torch.stack(log_priors).sum(0) + log_det
        return log_density - self.config.dimensions * math.log(self.bins)

    def class_logits(self, latent: Latent, labels: Tensor | None = None) -> Tensor:
        """What the classification head makes of latents, (B, classes): linear in the last part's
        mean over space, before the prior (Glow's published code). The labels are those that the
        latents were encoded with, and so tell it nothing."""
        before_prior = self.prior.inverse(latent[-1], labels).to(self.prior.mean.dtype)
        logits: Tensor = self.classifier(before_prior.mean(dim=(2, 3)))
        return logits

    def _log_prior(self, part: Tensor) -> Tensor:
        match self.config.prior:
            case "gaussian":
                return standard_normal_log_prob(part)
            case "logistic":
                return standard_logistic_log_prob(part)

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """-log_prob in bits, per number in the image."""
        return -log_prob / (self.config.dimensions * math.log(2))

    def sample_latent(self, count: int, temperature: float = 0.7, seed: int = 0) -> Latent:
        """`count` draws of the prior, whose deviation from its mean is taken times the temperature;
        the same for a seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        # torch draws in sixteens: rows of any other length would hang on how many there are
        factors = math.ceil(self.config.factors / 16) * 16
        shape = (count, self.config.dimensions + factors)
        match self.config.prior:
            case "gaussian":
                standard = torch.randn(shape, generator=generator)
            case "logistic":  # uniform draws are multiples of 2**-24, and may be 0
                standard = torch.rand(shape, generator=generator).logit(eps=2**-24)
        numbers = (standard * temperature).to(self.prior.mean)
        flat, shared = numbers.tensor_split([self.config.dimensions], dim=1)
        if self.common:
            alone = self.config.dimensions - self.config.factor_dimensions
            together = self.common.of_standard(flat[:, alone:], shared[:, : self.config.factors])
            flat = torch.cat([flat[:, :alone], together], dim=1)
        return self.unflatten(flat)

    def sample(
        self,
        count: int,
        temperature: float = 0.7,
        seed: int = 0,
        labels: Tensor | None = None,
    ) -> Tensor:
        """`count` images (uint8) drawn at a temperature (section 6)."""
        return self.quantize(self.decode(self.sample_latent(count, temperature, seed), labels))

    def dequantize(self, images: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """The continuous image y of a uint8 image: uniform noise within each bin by default."""
        if noise is None:
            noise = torch.rand(images.shape, device=images.device)
        precision = images.dtype if images.is_floating_point() else self.prior.mean.dtype
        y: Tensor = (images.to(precision) + noise) / self.bins - 0.5
        return y

    def quantize(self, images: Tensor) -> Tensor:
        """Floats in [0, 1] to the bin each falls in, as uint8."""
        bins: Tensor = (images * self.bins).floor().clamp(0, self.bins - 1)
        return bins.to(torch.uint8)

    @staticmethod
    def flatten(latent: Latent) -> Tensor:
        """(B, dimensions), levels in order."""
        return torch.cat([part.flatten(1) for part in latent], dim=1)

    def unflatten(self, flat: Tensor) -> Latent:
        shapes = self.config.part_shapes
        parts = flat.split([c * h * w for c, h, w in shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
