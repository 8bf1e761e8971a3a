"""The multi-scale flow (Glow, figure 2b): images to latents and back, with exact likelihood."""

import math

import torch
from torch import Tensor, nn

from model.config import FlowConfig
from model.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    ChannelPermutation,
    GaussianPrior,
    Invertible1x1,
    Layer,
    Split,
    Squeeze,
    module_list,
    standard_normal_log_prob,
)
from model.reversible import run as run_reversible

Latent = list[Tensor]  # one standard normal part per level, part i: (B, *config.part_shapes[i])


def _permutation(config: FlowConfig, channels: int) -> Layer:
    match config.permutation:
        case "invertible_1x1":
            return Invertible1x1(channels)
        case "shuffle":
            return ChannelPermutation(torch.randperm(channels))
        case "reverse":
            return ChannelPermutation(torch.arange(channels).flip(0))


def _coupling(config: FlowConfig, channels: int, hidden: int) -> Layer:
    match config.coupling:
        case "affine":
            return AffineCoupling(channels, hidden, config.log_scale_bound)
        case "additive":
            return AdditiveCoupling(channels, hidden)


class Level(nn.Module):
    """Squeeze, then steps of ActNorm, permutation and coupling."""

    def __init__(self, config: FlowConfig, level: int, channels: int) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.steps = module_list(
            Chain(
                ActNorm(channels),
                _permutation(config, channels),
                _coupling(config, channels, config.hidden[level]),
            )
            for _ in range(config.steps[level])
        )

    def initialize(self, x: Tensor) -> None:
        x, _ = self.squeeze(x)
        for step in self.steps:
            step.initialize(x)
            x, _ = step(x)

    def forward(self, x: Tensor, reversible: bool = False) -> tuple[Tensor, Tensor]:
        x, log_det = self.squeeze(x)
        if reversible and torch.is_grad_enabled():
            return run_reversible((layer for step in self.steps for layer in step.layers), x)
        for step in self.steps:
            x, change = step(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for step in reversed(self.steps):
            y = step.inverse(y)
        return self.squeeze.inverse(y)


class Flow(nn.Module):
    """A bijection between images and standard normal latents.

    Images are uint8 (B, C, H, W) with values below 2**bits. `forward` and `inverse` work on the
    continuous image y in [-0.5, 0.5]; `encode`, `decode` and `log_prob` on the picture itself.
    Where `reversible` is set, backward rebuilds activations instead of storing them.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.reversible = False
        self.bins = 2**config.bits
        levels: list[Level] = []
        splits: list[Split] = []
        channels, size = config.channels, config.resolution
        for level in range(config.levels):
            channels, size = channels * 4, size // 2
            levels.append(Level(config, level, channels))
            if level < config.levels - 1:
                splits.append(Split(channels))
                channels //= 2
        self.levels = module_list(levels)
        self.splits = module_list(splits)
        self.prior = GaussianPrior((channels, size, size))

    def initialize(self, images: Tensor, noise: Tensor | None = None) -> None:
        """Set every ActNorm from one batch of images (uint8)."""
        with torch.no_grad():
            x = self.dequantize(images, noise)
            for i, level in enumerate(self.levels):
                level.initialize(x)
                x, _ = level(x)
                if i < len(self.splits):
                    x, _, _ = self.splits[i](x)

    def forward(self, y: Tensor) -> tuple[Latent, Tensor]:
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
        part, change = self.prior(y)
        return [*parts, part], log_det + change

    def inverse(self, latent: Latent) -> Tensor:
        """The continuous image y of a latent."""
        y: Tensor = self.prior.inverse(latent[-1])
        for i in reversed(range(len(self.levels))):
            if i < len(self.splits):
                y = self.splits[i].inverse(y, latent[i])
            y = self.levels[i].inverse(y)
        return y

    def condition(self) -> float:
        """The largest condition number of a 1x1 convolution; not a number where one is broken."""
        found = [m.condition() for m in self.modules() if isinstance(m, Invertible1x1)]
        return math.nan if any(map(math.isnan, found)) else max(found, default=1.0)

    def encode(self, images: Tensor) -> Latent:
        """The latent of each image (uint8), taken at the middle of its 8-bit bins, in float64.

        The path of x is in float64 here and in decode: in float32 its rounding, magnified on the
        way back, can reach the next bin in pictures far from any face. The networks, which take
        the time, keep the precision of their weights.
        """
        latent: Latent = self(self.dequantize(images.double(), noise=0.5))[0]
        return latent

    def decode(self, latent: Latent) -> Tensor:
        """Images of a latent as floats; [0, 1] is the range of a picture, `quantize` rounds."""
        images = self.inverse([part.double() for part in latent]) + 0.5
        return images.to(self.prior.mean.dtype)

    def log_prob(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """log P(image) in nats, (B,), under uniform dequantization: the one-sample form of the
        lower bound log P(x) >= E_u log p(x + u) (Theis et al. 2016, eq. 13)."""
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        return self.log_density(self.dequantize(images, noise))

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y), scaled to the volume of one bin so that it is the log_prob of the image that
        y was dequantized from."""
        latent, log_det = self(y)
        log_prior = torch.stack([standard_normal_log_prob(part) for part in latent]).sum(0)
        log_density: Tensor = log_prior + log_det
        return log_density - self.config.dimensions * math.log(self.bins)

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """-log_prob in bits, per number in the image."""
        return -log_prob / (self.config.dimensions * math.log(2))

    def sample_latent(self, count: int, temperature: float = 0.7, seed: int = 0) -> Latent:
        """`count` draws of N(0, temperature**2), the same for a seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        flat = torch.randn(count, self.config.dimensions, generator=generator) * temperature
        return self.unflatten(flat.to(self.prior.mean))

    def sample(self, count: int, temperature: float = 0.7, seed: int = 0) -> Tensor:
        """`count` images (uint8) drawn at a temperature (section 6)."""
        return self.quantize(self.decode(self.sample_latent(count, temperature, seed)))

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
