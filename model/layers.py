"""The invertible layers of NICE (Dinh et al. 2014, arXiv:1410.8516), RealNVP (Dinh et al. 2016,
arXiv:1605.08803) and Glow (Kingma & Dhariwal 2018, arXiv:1807.03039). A section that is cited
with no paper is Glow's.

One contract holds for every `Layer`, and one test suite holds every layer to it:

    y, log_det = layer(x)      # x, y: (B, C, H, W); log_det: (B,) = log |det dy/dx|, in nats
    x = layer.inverse(y)       # undoes forward

`initialize(x)` sets data-dependent parameters from one batch; most layers have none.
The path of x through the flow stays in its own precision (float32 or float64), whatever that of
the weights, and under autocast too. The coupling networks, which inverse recomputes from the same
input, run in the precision of their weights, or of autocast.
"""

import math
from collections.abc import Callable, Iterable
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
        self.register_buffer("permutation", torch.empty(channels, channels))
        self.register_buffer("sign", torch.empty(channels))
        self.log_scale = nn.Parameter(torch.empty(channels))
        self.lower = nn.Parameter(torch.empty(channels, channels))
        self.upper = nn.Parameter(torch.empty(channels, channels))
        self.set_weight(torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q)

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Take W, (C, C), float64."""
        permutation, lower, upper = torch.linalg.lu(weight)
        self.permutation.copy_(permutation)
        self.sign.copy_(upper.diagonal().sign())
        self.log_scale.copy_(upper.diagonal().abs().log())
        self.lower.copy_(lower.tril(-1))
        self.upper.copy_(upper.triu(1))

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """P, L and U + diag(s)."""
        identity = torch.eye(len(self.sign), dtype=dtype, device=self.lower.device)
        lower = self.lower.to(dtype).tril(-1) + identity
        diagonal = self.sign.to(dtype) * self.log_scale.to(dtype).exp()
        upper = self.upper.to(dtype).triu(1) + torch.diag(diagonal)
        return self.permutation.to(dtype), lower, upper

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W, (C, C), computed in a precision; that of its parameters by default."""
        permutation, lower, upper = self._factors(dtype or self.lower.dtype)
        return permutation @ lower @ upper

    def inverse_weight(self, dtype: torch.dtype) -> Tensor:
        """The inverse of W, (C, C), computed in float64."""
        permutation, lower, upper = self._factors(torch.float64)
        halfway = torch.linalg.solve_triangular(lower, permutation.T, upper=False)
        inverse: Tensor = torch.linalg.solve_triangular(upper, halfway, upper=True)
        return inverse.to(dtype)

    @torch.no_grad()
    def condition(self) -> float:
        """How many times larger an error can come out of W or its inverse than it went in, beside
        the signal; infinite where W is singular, not a number where it is broken."""
        weight = self.weight(torch.float64)
        return torch.linalg.cond(weight).item() if weight.isfinite().all() else math.nan

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum() * x.shape[2] * x.shape[3]
        with torch.autocast(x.device.type, enabled=False):
            return _by_pixel(self.weight(x.dtype), x), _per_image(log_det, x)

    def inverse(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return _by_pixel(self.inverse_weight(y.dtype), y)


def _by_pixel(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix on the channels of each pixel. As a product of matrices, which has x's precision on
    a GPU too: a convolution would have TensorFloat-32's there, 10 bits."""
    pixels = x.permute(0, 2, 3, 1)
    return (pixels.flatten(0, 2) @ matrix.T).view(pixels.shape).permute(0, 3, 1, 2)


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
    """Convolution that starts at zero, with a learned gain per channel, so that a new coupling is
    the identity (3.3)."""

    GAIN = 3.0  # learns the scale this much faster than the weights

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.log_gain = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (self.log_gain * self.GAIN).exp()


class ResidualBlock(nn.Module):
    """x plus two convolutions of it (He et al. 2015; RealNVP, 3.7), a new one the identity, so
    that activations do not grow with depth."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.last = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(F.relu_(self.first(x)))
        return out


ROUGH = 1.5 * 2.0**12  # float32 numbers near it are multiples of 2**-11


def seen(x: Tensor, precision: torch.dtype) -> Tensor:
    """x as a network of that precision sees it. Where the path of x is finer (see `Flow.encode`),
    in multiples of 2**-11: what decode brings back but for float64's rounding looks the same, bar
    ties, and a network has nothing to magnify."""
    if x.dtype == torch.float64 and precision == torch.float32:
        return (x + ROUGH).float() - ROUGH
    return x.to(precision)


class CouplingNetwork(nn.Module):
    """The network inside a coupling: a first layer, `depth` middle ones and a last. As it stands
    it is Glow's, 3x3, 1x1 and 3x3 convolutions (5.1); with `residual` middle layers RealNVP's;
    with kernel 1, on vectors (B, C, 1, 1), NICE's perceptron."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        depth: int = 1,
        residual: bool = False,
        kernel: int = 3,
    ) -> None:
        super().__init__()

        def middle() -> nn.Module:
            return ResidualBlock(hidden, kernel) if residual else nn.Conv2d(hidden, hidden, 1)

        self.first = nn.Conv2d(in_channels, hidden, kernel, padding=kernel // 2)
        self.middle = middle()
        self.further = module_list(middle() for _ in range(depth - 1))
        self.last = ZeroConv(hidden, out_channels, kernel)
        for layer in (self.first, self.middle, *self.further):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.first(seen(x, self.first.weight.dtype)))
        for layer in (self.middle, *self.further):
            out = F.relu_(layer(out))
        last: Tensor = self.last(out)
        return last.to(x.dtype)


NewNetwork = Callable[[int, int, int], nn.Module]  # of in_channels, hidden, out_channels


def bounded(log_scale: Tensor, bound: float) -> Tensor:
    """`log_scale` held smoothly within plus or minus `bound`: slope 1 at 0, so a small one keeps
    its value and no decode can multiply by more than exp(bound)."""
    return bound * torch.tanh(log_scale / bound)


class AffineCoupling(Layer):
    """y1 = x1, y2 = (x2 + t(x1)) exp(s(x1)) (Dinh et al. 2016, eq. 7; Glow, table 1)."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        log_scale_bound: float,
        new_network: NewNetwork = CouplingNetwork,
    ) -> None:
        super().__init__()
        self.kept = channels - channels // 2
        self.bound = log_scale_bound
        moved = channels - self.kept
        self.network = new_network(self.kept, hidden, 2 * moved)

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

    def __init__(
        self, channels: int, hidden: int, new_network: NewNetwork = CouplingNetwork
    ) -> None:
        super().__init__()
        self.kept = channels - channels // 2
        self.network = new_network(self.kept, hidden, channels - self.kept)

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


class CheckerboardCoupling(Layer):
    """A coupling that moves the pixels of one colour of a checkerboard by what its network sees of
    the other: y = b x + (1 - b)(x + t(b x)) exp(s(b x)), where b is 1 on the colour whose row +
    column is of `parity` (Dinh et al. 2016, eq. 9). Additive, s = 0, with no `log_scale_bound`."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        parity: int,
        log_scale_bound: float | None,
        new_network: NewNetwork = CouplingNetwork,
    ) -> None:
        super().__init__()
        self.parity = parity
        self.bound = log_scale_bound
        outputs = channels if log_scale_bound is None else 2 * channels
        self.network = new_network(channels, hidden, outputs)

    def _kept(self, x: Tensor) -> Tensor:
        """b: 1 where a pixel is kept, else 0, (H, W)."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        kept: Tensor = (rows[:, None] + columns) % 2 == self.parity
        return kept.to(x.dtype)

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Zero at kept pixels, so that (x + 0) exp(0) is x there, to the bit."""
        kept = self._kept(x)
        out = (1 - kept) * self.network(kept * x)
        if self.bound is None:
            return torch.zeros_like(x), out
        log_scale, shift = out.chunk(2, dim=1)
        return bounded(log_scale, self.bound), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(x)
        return (x + shift) * log_scale.exp(), log_scale.sum(dim=(1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        log_scale, shift = self._scale_and_shift(y)
        return y * (-log_scale).exp() - shift

    def rebuild(self, y: Tensor) -> Rebuilt:
        """As of any layer, but the network runs once for the inverse and the graph both."""
        x = y.detach().clone().requires_grad_()
        log_scale, shift = self._scale_and_shift(x)
        with torch.no_grad():  # the graph so far has seen only pixels that this leaves alone
            x.copy_(y * (-log_scale).exp() - shift)
        return Rebuilt((x,), ((x + shift) * log_scale.exp(),), log_scale.sum(dim=(1, 2, 3)))


class Squeeze(Layer):
    """2x2 space to 4 channels: (B, C, H, W) to (B, 4C, H/2, W/2) (Dinh et al. 2016, 3.6)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return F.pixel_shuffle(y, 2)


class Flatten(Layer):
    """A picture to one vector as 1x1 channels, (B, C, H, W) to (B, CHW, 1, 1), its even numbers
    before its odd ones, so that a coupling of channels is one of NICE's (Dinh et al. 2014, 3.2
    and 5.1)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vector = x.flatten(1)
        y = torch.cat([vector[:, ::2], vector[:, 1::2]], dim=1)
        return y[:, :, None, None], x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        even, odd = y.flatten(1).tensor_split([(y.shape[1] + 1) // 2], dim=1)
        x = y.new_empty(y.shape[:2])
        x[:, ::2], x[:, 1::2] = even, odd
        return x.view(-1, *self.shape)


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
    """Sends the channels after the first `kept` out as a part of the latent, standardised by a
    Gaussian whose mean and deviation a convolution of those kept gives (Glow, 3.1 and the learned
    prior of its published code): forward(x) is (kept, part, log_det), part ~ N(0, 1)."""

    LOG_SCALE_BOUND = 2.0

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.kept = kept
        self.prior = ZeroConv(kept, 2 * (channels - kept))

    def _mean_and_log_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        prior = self.prior(seen(kept, self.prior.weight.dtype)).to(kept.dtype)
        mean, log_scale = prior.chunk(2, dim=1)
        return mean, bounded(log_scale, self.LOG_SCALE_BOUND)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, part = x[:, : self.kept], x[:, self.kept :]
        mean, log_scale = self._mean_and_log_scale(kept)
        return kept, (part - mean) * (-log_scale).exp(), -log_scale.sum(dim=(1, 2, 3))

    def inverse(self, kept: Tensor, part: Tensor) -> Tensor:
        mean, log_scale = self._mean_and_log_scale(kept)
        return torch.cat([kept, part * log_scale.exp() + mean], dim=1)


class GaussianPrior(Layer):
    """The last part's learned mean and scale, one each per element, y = (x - mean) / scale: of a
    Gaussian where y ~ N(0, 1), and NICE's diagonal scale (Dinh et al. 2014, 3.3) with any prior.

    With `classes`, `labels` (B,) say of what class each image is, and a class moves mean and
    log-scale by an offset of its own per channel (the class-conditional prior of Glow's published
    code). Without labels no image has a class.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int = 0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))
        if classes:
            self.class_mean = nn.Parameter(torch.zeros(classes, shape[0], 1, 1))
            self.class_log_scale = nn.Parameter(torch.zeros(classes, shape[0], 1, 1))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x)  # a batch is too few to tell elements apart
        self.mean.fill_(mean)
        self.log_scale.fill_(torch.log(std + 1e-6))

    def _mean_and_log_scale(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if labels is None:
            return self.mean[None], self.log_scale[None]
        return self.mean + self.class_mean[labels], self.log_scale + self.class_log_scale[labels]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._mean_and_log_scale(labels)
        return (x - mean) * (-log_scale.to(x.dtype)).exp(), _per_image(
            -log_scale.sum(dim=(1, 2, 3)), x
        )

    def inverse(self, y: Tensor, labels: Tensor | None = None) -> Tensor:
        mean, log_scale = self._mean_and_log_scale(labels)
        return y * log_scale.to(y.dtype).exp() + mean


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, 1) summed over all but the batch, in nats: (B,)."""
    flat = z.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


def standard_logistic_log_prob(z: Tensor) -> Tensor:
    """The log density of independent standard logistics, summed over all but the batch, in nats:
    (B,) (Dinh et al. 2014, 3.4)."""
    flat = z.flatten(1)
    return -(F.softplus(flat) + F.softplus(-flat)).sum(1)


def exponential_noise(uniform: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Noise in [0, 1] whose log density rises by `slope`, made of uniform noise, and its log
    density in nats, number by number. Slopes beyond 30 count as 30."""
    slope = slope.clamp(-30, 30)
    slope = torch.where(slope.abs() < 1e-3, 1e-3, slope)  # as good as uniform, and no 0 / 0
    mass = slope.expm1()
    noise = torch.log1p(uniform * mass) / slope
    return noise, slope * noise - (mass / slope).log()
