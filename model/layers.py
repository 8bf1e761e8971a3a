"""The invertible layers of Glow (Kingma & Dhariwal 2018, arXiv:1807.03039).

One contract holds for every `Layer`, and one test suite holds every layer to it:

    y, log_det = layer(x)      # x, y: (B, C, H, W); log_det: (B,) = log |det dy/dx|, in nats
    x = layer.inverse(y)       # undoes forward

`initialize(x)` sets data-dependent parameters from one batch; most layers have none.
The path of x through the flow stays in its own precision (float32 or float64), whatever that of
the weights, and under autocast too. The coupling networks, which inverse recomputes from the same
input, run in the precision of their weights, or of autocast.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> list[M]:
    """An nn.ModuleList that keeps the type of its items."""
    return cast(list[M], nn.ModuleList(modules))


class Rebuilt(NamedTuple):
    """A layer's forward as an autograd graph, made from its output alone: leaves whose channels
    joined are the input, and tensors whose channels joined are the output."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    log_det: Tensor


class Layer(nn.Module):
    """An invertible map of (B, C, H, W) tensors with a known log-determinant."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def initialize(self, x: Tensor) -> None:
        """Set data-dependent parameters so that forward(x) is well scaled."""

    def rebuild(self, y: Tensor) -> Rebuilt:
        """The graph of forward at the x that gives y, for the reversible backward."""
        with torch.no_grad():
            x = self.inverse(y)
        x.requires_grad_()
        y, log_det = self(x)
        return Rebuilt((x,), (y,), log_det)


def _per_image(log_det: Tensor, x: Tensor) -> Tensor:
    return log_det.expand(x.shape[0])


class ActNorm(Layer):
    """Per-channel affine map, set by its first batch to zero mean and unit variance (3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, dim=(0, 2, 3))
        self.bias.copy_(-mean[:, None, None])
        self.log_scale.copy_(-torch.log(std + 1e-6)[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum() * x.shape[2] * x.shape[3]
        return (x + self.bias) * self.log_scale.to(x.dtype).exp(), _per_image(log_det, x)

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_scale.to(y.dtype)).exp() - self.bias


class Invertible1x1(Layer):
    """Invertible 1x1 convolution, W = P L (U + diag(s)), from a random rotation (3.2, eq. 10)."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W, (C, C), computed in a precision; that of its parameters by default."""
        dtype = dtype or self.lower.dtype
        identity = torch.eye(len(self.sign), dtype=dtype, device=self.lower.device)
        lower = self.lower.to(dtype).tril(-1) + identity
        diagonal = self.sign.to(dtype) * self.log_scale.to(dtype).exp()
        upper = self.upper.to(dtype).triu(1) + torch.diag(diagonal)
        return self.permutation.to(dtype) @ lower @ upper

    @torch.no_grad()
    def condition(self) -> float:
        """How many times larger an error can come out of W or its inverse than it went in, beside
        the signal; infinite where W is singular, not a number where it is broken."""
        weight = self.weight(torch.float64)
        return torch.linalg.cond(weight).item() if weight.isfinite().all() else math.nan

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum() * x.shape[2] * x.shape[3]
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, self.weight(x.dtype)[:, :, None, None]), _per_image(log_det, x)

    def inverse(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            inverse = torch.linalg.inv(self.weight(torch.float64)).to(y.dtype)
            return F.conv2d(y, inverse[:, :, None, None])


class ChannelPermutation(Layer):
    """A fixed order of the channels, NICE's and RealNVP's stand-in for the 1x1 convolution."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return y[:, self.inverse_order]


class ZeroConv(nn.Conv2d):
    """3x3 convolution that starts at zero, with a learned gain per channel, so that a new
    coupling is the identity (3.3)."""

    GAIN = 3.0  # learns the scale this much faster than the weights

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.log_gain = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (self.log_gain * self.GAIN).exp()


class CouplingNetwork(nn.Module):
    """The network inside a coupling: 3x3, 1x1 and 3x3 convolutions (5.1)."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 1)
        self.last = ZeroConv(hidden, out_channels)
        for conv in (self.first, self.middle):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.to(self.first.weight.dtype))
        out: Tensor = self.last(F.relu_(self.middle(F.relu_(hidden))))
        return out.to(x.dtype)


def bounded(log_scale: Tensor, bound: float) -> Tensor:
    """`log_scale` held smoothly within plus or minus `bound`: slope 1 at 0, so a small one keeps
    its value and no decode can multiply by more than exp(bound)."""
    return bound * torch.tanh(log_scale / bound)


class AffineCoupling(Layer):
    """y1 = x1, y2 = (x2 + t(x1)) exp(s(x1)) (Dinh et al. 2016, eq. 7; Glow, table 1)."""

    def __init__(self, channels: int, hidden: int, log_scale_bound: float) -> None:
        super().__init__()
        self.kept = channels - channels // 2
        self.bound = log_scale_bound
        moved = channels - self.kept
        self.network = CouplingNetwork(self.kept, hidden, 2 * moved)

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(kept).chunk(2, dim=1)
        return bounded(log_scale, self.bound), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        y = torch.cat([kept, (moved + shift) * log_scale.exp()], dim=1)
        return y, log_scale.sum(dim=(1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, moved * (-log_scale).exp() - shift], dim=1)

    def rebuild(self, y: Tensor) -> Rebuilt:
        """As of any layer, but the network runs once for the inverse and the graph both."""
        kept = y[:, : self.kept].detach().requires_grad_()
        log_scale, shift = self._scale_and_shift(kept)
        with torch.no_grad():
            moved = y[:, self.kept :] * (-log_scale).exp() - shift
        moved.requires_grad_()
        log_det = log_scale.sum(dim=(1, 2, 3))
        return Rebuilt((kept, moved), (kept, (moved + shift) * log_scale.exp()), log_det)


class AdditiveCoupling(Layer):
    """y1 = x1, y2 = x2 + t(x1) (Dinh et al. 2014, eq. 14)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.kept = channels - channels // 2
        self.network = CouplingNetwork(self.kept, hidden, channels - self.kept)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        return torch.cat([kept, moved + self.network(kept)], dim=1), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = y[:, : self.kept], y[:, self.kept :]
        return torch.cat([kept, moved - self.network(kept)], dim=1)

    def rebuild(self, y: Tensor) -> Rebuilt:
        """As of any layer, but the network runs once for the inverse and the graph both."""
        kept = y[:, : self.kept].detach().requires_grad_()
        shift = self.network(kept)
        moved = (y[:, self.kept :] - shift).detach().requires_grad_()
        return Rebuilt((kept, moved), (kept, moved + shift), y.new_zeros(y.shape[0]))


class Squeeze(Layer):
    """2x2 space to 4 channels: (B, C, H, W) to (B, 4C, H/2, W/2) (Dinh et al. 2016, 3.6)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return F.pixel_shuffle(y, 2)


class Chain(Layer):
    """Layers one after another."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = module_list(layers)

    def initialize(self, x: Tensor) -> None:
        for layer in self.layers:
            layer.initialize(x)
            x, _ = layer(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for layer in self.layers:
            x, change = layer(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y


class Split(nn.Module):
    """Sends half the channels out as a part of the latent, standardised by a Gaussian whose mean
    and deviation a convolution of the other half gives (Glow, 3.1 and the learned prior of its
    published code): forward(x) is (kept, part, log_det), part ~ N(0, 1)."""

    LOG_SCALE_BOUND = 2.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = ZeroConv(channels // 2, channels)

    def _mean_and_log_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        prior = self.prior(kept.to(self.prior.weight.dtype)).to(kept.dtype)
        mean, log_scale = prior.chunk(2, dim=1)
        return mean, bounded(log_scale, self.LOG_SCALE_BOUND)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, part = x.chunk(2, dim=1)
        mean, log_scale = self._mean_and_log_scale(kept)
        return kept, (part - mean) * (-log_scale).exp(), -log_scale.sum(dim=(1, 2, 3))

    def inverse(self, kept: Tensor, part: Tensor) -> Tensor:
        mean, log_scale = self._mean_and_log_scale(kept)
        return torch.cat([kept, part * log_scale.exp() + mean], dim=1)


class GaussianPrior(Layer):
    """The last part's learned Gaussian, one mean and deviation per element: y ~ N(0, 1)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x - self.mean) * (-self.log_scale.to(x.dtype)).exp()
        return y, _per_image(-self.log_scale.sum(), x)

    def inverse(self, y: Tensor) -> Tensor:
        return y * self.log_scale.to(y.dtype).exp() + self.mean


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, 1) summed over all but the batch, in nats: (B,)."""
    flat = z.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))
