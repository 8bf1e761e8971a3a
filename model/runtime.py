"""A frozen flow as the fastest program for its device, with the same numbers.

Folding: ActNorm and permutation are one matrix and one bias, both ways, in float64; the gain of a
coupling network's last layer and the bound of its log-scale are in its weights; the prior of a
split is a coupling whose network is one convolution. The path of x is in float64, channels first,
(C, B, H, W): the halves of a coupling are then views and a 1x1 convolution one matrix product.
The networks run in oneDNN, ReLU in the same call, weights laid out once, and in bfloat16 where
the processor multiplies it.

Exactness: decode gives a picture back if each network sees there what it saw in encode. oneDNN
gives an image the same bits in every batch, and the path of x comes back within `PATH_ERROR`. A
number that close to a tie of what bfloat16 networks can see could still round to the other side;
encode looks for such numbers, and takes the few images that have one at another point of their
8-bit bins.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.flow import Flow, Latent
from model.layers import (
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    CouplingNetwork,
    Split,
    ZeroConv,
)

PATH_ERROR = 1e-10  # of x, from encode to decode: 3e-14 on faces, 7e-11 on black and white noise
POINTS = [0.5 + i / 64 for i in range(8)]  # of a bin, tried in turn
ROUGH = 1.5 * 2.0**11  # float32 numbers near it are multiples of 2**-12
FINE_PIXELS = 64  # a level of no more has float32 networks, which cost it little
CHUNK = 4  # images, whose activations fit in the cache
BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # batch sizes that a GPU has graphs for

Convolution = Callable[[Tensor], Tensor]
Program = Callable[[list[Tensor], Tensor | None], list[Tensor]]  # of tensors and labels, (B, ...)


def folds(flow: Flow) -> bool:
    """Whether `Runtime` knows the family: Glow in all its settings, but neither RealNVP's
    checkerboards and residual blocks nor NICE's perceptrons."""
    config = flow.config
    return not (config.flat or any(config.checkerboard) or config.residual)


def fastest(flow: Flow) -> "Runtime | Flow":
    """What serves a frozen flow: its runtime, or itself where its family does not fold."""
    return Runtime(flow) if folds(flow) else flow


def network_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU that multiplies it, else float32."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class Runtime:
    """`encode`, `decode` and `log_prob` of a flow that no longer changes, on its device; arguments
    and results are those of `Flow`. `precision` is that of the coupling networks, by default the
    fastest that is exact; a latent decodes exactly with the precision that encoded it.

    Raises ValueError for a flow of a family that does not fold.
    """

    def __init__(self, flow: Flow, precision: torch.dtype | None = None) -> None:
        if not folds(flow):
            raise ValueError("checkerboards, residual blocks and perceptrons do not fold")
        self.flow = flow
        self.precision = precision or network_precision(flow.prior.mean.device)
        self._levels: list[list[_Step]] = []
        self._splits: list[_Coupling] = []
        self._log_det = 0.0  # of every ActNorm and permutation
        self._graphs: dict[tuple[Program, int, bool], _Graph] = {}
        rounds = self.precision == torch.bfloat16
        with torch.no_grad():
            for i, level in enumerate(flow.levels):
                size = flow.config.resolution >> (i + 1)
                fine = torch.float32 if size**2 <= FINE_PIXELS else self.precision
                steps = [_Step(chain, _Arithmetic(size, fine, rounds)) for chain in level.steps]
                self._levels.append(steps)
                self._log_det += sum(step.log_det for step in steps) * size**2
            for i, split in enumerate(flow.splits):
                size = flow.config.resolution >> (i + 1)
                self._splits.append(_of_split(split, _Arithmetic(size, torch.float32, rounds)))

    @torch.inference_mode()
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Latent:
        *latent, _, unsafe = self._run(self._forward, [self._at(images, POINTS[0])], labels)
        for point in POINTS[1:]:
            (again,) = unsafe.nonzero(as_tuple=True)
            if not len(again):
                break
            some = None if labels is None else labels[again]
            *parts, _, unsafe[again] = self._run(
                self._forward, [self._at(images[again], point)], some
            )
            for part, moved in zip(latent, parts, strict=True):
                part[again] = moved
        return latent

    @torch.inference_mode()
    def decode(self, latent: Latent, labels: Tensor | None = None) -> Tensor:
        return self._run(self._inverse, latent, labels)[0]

    @torch.inference_mode()
    def log_prob(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        y = self._at(images, noise)
        *latent, log_det, _ = self._run(self._forward, [y], labels)
        return self.flow.log_density_of(latent, log_det).to(self.flow.prior.mean.dtype)

    def set_threads(self) -> int:
        """Gives torch as many threads as decode one image soonest, and says how many."""
        latent = self.flow.sample_latent(1)
        taken: dict[int, float] = {}
        count = 1
        while count <= (os.cpu_count() or 1):
            torch.set_num_threads(count)
            self.decode(latent)
            taken[count] = min(_seconds(lambda: self.decode(latent)) for _ in range(5))
            count *= 2
        best = min(taken, key=taken.__getitem__)
        torch.set_num_threads(best)
        return best

    def _at(self, images: Tensor, point: Tensor | float) -> Tensor:
        """y in float64, at a point of each bin."""
        return self.flow.dequantize(images.double(), point)

    def _forward(self, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
        """The latent of y, log |det dz/dy| and whether another point of the bins is needed."""
        x = inputs[0].transpose(0, 1)
        found = _Found(x)
        parts: Latent = []
        for i, steps in enumerate(self._levels):
            x = _squeeze(x)
            for step in steps:
                x = step.forward(x, found)
            if i < len(self._splits):
                x, part = self._splits[i].forward(x, found).chunk(2)
                parts.append(part.transpose(0, 1).contiguous())
        part, change = self.flow.prior(x.transpose(0, 1).contiguous(), labels)
        return [*parts, part, found.log_det + change + self._log_det, found.unsafe]

    def _inverse(self, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
        parts = [part.double().transpose(0, 1) for part in inputs]
        x = self.flow.prior.inverse(parts.pop().transpose(0, 1), labels).transpose(0, 1)
        for i in reversed(range(len(self._levels))):
            if i < len(self._splits):
                x = self._splits[i].inverse(torch.cat([x, parts[i]]))
            for step in reversed(self._levels[i]):
                x = step.inverse(x)
            x = _unsqueeze(x)
        return [x.transpose(0, 1).add(0.5).to(self.flow.prior.mean.dtype)]

    def _run(self, program: Program, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
        on_gpu = inputs[0].is_cuda
        size = BUCKETS[-1] if on_gpu else CHUNK
        run = self._replay if on_gpu else _call
        batches = [
            run(
                program,
                [tensor[start : start + size] for tensor in inputs],
                None if labels is None else labels[start : start + size],
            )
            for start in range(0, len(inputs[0]), size)
        ]
        return [torch.cat(outputs) for outputs in zip(*batches, strict=True)]

    def _replay(
        self, program: Program, inputs: list[Tensor], labels: Tensor | None
    ) -> list[Tensor]:
        """By the CUDA graph of the smallest bucket that holds the batch."""
        count = len(inputs[0])
        bucket = next(size for size in BUCKETS if size >= count)
        key = program, bucket, labels is None
        if key not in self._graphs:
            self._graphs[key] = _Graph(program, inputs, labels, bucket)
        return self._graphs[key](inputs, labels)


def _call(program: Program, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
    return program(inputs, labels)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Graph:
    """A program recorded for one batch size, on tensors that stay where they are. Unmeasured."""

    def __init__(
        self, program: Program, inputs: list[Tensor], labels: Tensor | None, size: int
    ) -> None:
        def still(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(size, *tensor.shape[1:])

        self._inputs = [still(tensor) for tensor in inputs]
        self._labels = None if labels is None else still(labels)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # cuDNN picks its kernels before they are recorded
            program(self._inputs, self._labels)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = program(self._inputs, self._labels)

    def __call__(self, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
        count = len(inputs[0])
        for still, tensor in zip(self._inputs, inputs, strict=True):
            still[:count].copy_(tensor, non_blocking=True)
        if self._labels is not None and labels is not None:
            self._labels[:count].copy_(labels, non_blocking=True)
        self._graph.replay()
        return [output[:count].clone() for output in self._outputs]


class _Found:
    """What couplings find on the way of x, (C, B, H, W), to its latent."""

    def __init__(self, x: Tensor) -> None:
        self.log_det = x.new_zeros(x.shape[1])
        self.unsafe = x.new_zeros(x.shape[1], dtype=torch.bool)  # near a tie: decode may differ


class _Arithmetic(NamedTuple):
    """How the networks of one level compute."""

    size: int  # pixels, a side
    precision: torch.dtype
    rounds: bool  # their input to multiples of 2**-12, then as they compute


class _Step:
    """ActNorm and permutation in one 1x1 convolution, then the coupling."""

    def __init__(self, chain: Chain, arithmetic: _Arithmetic) -> None:
        *linear, coupling = chain.layers
        assert isinstance(coupling, (AffineCoupling, AdditiveCoupling))
        self.coupling = _of_coupling(coupling, arithmetic)
        # What the layers make of zero is the bias, of each unit vector a column of the matrix.
        channels = coupling.kept + self.coupling.moved
        device = next(coupling.parameters()).device
        unit = torch.eye(channels, dtype=torch.float64, device=device)
        x = torch.cat([torch.zeros_like(unit[:1]), unit])[:, :, None, None]
        for layer in linear:
            x, _ = layer(x)
        x = x[:, :, 0, 0].T
        self.bias = x[:, :1].contiguous()
        self.matrix = x[:, 1:] - self.bias
        self.inverse_matrix = torch.linalg.inv(self.matrix)
        self.inverse_bias = -self.inverse_matrix @ self.bias
        self.log_det = torch.linalg.slogdet(self.matrix).logabsdet.item()

    def forward(self, x: Tensor, found: _Found) -> Tensor:
        y = torch.addmm(self.bias, self.matrix, x.flatten(1)).view_as(x)
        return self.coupling.forward(y, found)

    def inverse(self, y: Tensor) -> Tensor:
        x = self.coupling.inverse(y)
        return torch.addmm(self.inverse_bias, self.inverse_matrix, x.flatten(1)).view_as(x)


class _Coupling:
    """y1 = x1, y2 = (x2 - m(x1)) exp(bound tanh(s(x1))); s and m are the first and the last half
    of what the convolutions give, or all is m where there is no `bound`. Works in place."""

    def __init__(
        self,
        layers: list[tuple[Tensor, Tensor]],
        moved: int,
        bound: float | None,
        arithmetic: _Arithmetic,
    ) -> None:
        self.moved = moved
        self.bound = bound
        self.precision = arithmetic.precision
        self.rounds = arithmetic.rounds
        self.convolutions = [
            _convolution(*layer, relu=layer is not layers[-1], arithmetic=arithmetic)
            for layer in layers
        ]

    def forward(self, x: Tensor, found: _Found) -> Tensor:
        kept, moved = x.tensor_split([-self.moved])
        seen = self._seen(kept)
        if self.rounds:
            below, above = self._seen(kept - PATH_ERROR), self._seen(kept + PATH_ERROR)
            if not torch.equal(below, above):
                found.unsafe |= (below != above).any(3).any(2).any(0)
        scale, mean = self._scale_and_mean(seen, found)
        moved.sub_(mean)
        if scale is not None:
            moved.mul_(scale)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = y.tensor_split([-self.moved])
        scale, mean = self._scale_and_mean(self._seen(kept))
        if scale is None:
            moved.add_(mean)
        else:
            torch.addcdiv(mean, moved, scale, out=moved)
        return y

    def _seen(self, kept: Tensor) -> Tensor:
        """What the network sees of `kept`. The multiples are for numbers near zero, where
        bfloat16 has so many that most images would have one near a tie."""
        seen = kept.float()
        return seen.add_(ROUGH).sub_(ROUGH).to(self.precision) if self.rounds else seen

    def _scale_and_mean(
        self, seen: Tensor, found: _Found | None = None
    ) -> tuple[Tensor | None, Tensor]:
        channels, count, height, width = seen.shape
        x = seen.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
        x.copy_(seen.transpose(0, 1))
        for convolution in self.convolutions:
            x = convolution(x)
        out = torch.empty((x.shape[1], count, height, width), device=seen.device)
        out.copy_(x.transpose(0, 1))
        if self.bound is None:
            return None, out.double()
        log_scale = out[: self.moved].tanh_()
        if self.bound != 1:
            log_scale.mul_(self.bound)
        if found is not None:
            found.log_det += log_scale.sum((0, 2, 3), dtype=torch.float64)
        log_scale.exp_()
        scale, mean = out.double().chunk(2)
        return scale, mean


def _of_coupling(coupling: AffineCoupling | AdditiveCoupling, arithmetic: _Arithmetic) -> _Coupling:
    network = cast(CouplingNetwork, coupling.network)
    hidden = cast(list[nn.Conv2d], [network.first, network.middle, *network.further])
    layers = [(layer.weight, cast(Tensor, layer.bias)) for layer in hidden]
    weight, bias = _gained(network.last)
    factor = torch.full_like(bias, -1.0)  # m = -t
    moved, bound = len(bias), None
    if isinstance(coupling, AffineCoupling):
        moved, bound = moved // 2, coupling.bound
        factor[:moved] = 1 / bound
    layers.append((weight * factor[:, None, None, None], bias * factor))
    return _Coupling(layers, moved, bound, arithmetic)


def _of_split(split: Split, arithmetic: _Arithmetic) -> _Coupling:
    (mean, log_scale), (mean_bias, log_scale_bias) = (t.chunk(2) for t in _gained(split.prior))
    bound = split.LOG_SCALE_BOUND
    weight = torch.cat([-log_scale / bound, mean])
    bias = torch.cat([-log_scale_bias / bound, mean_bias])
    return _Coupling([(weight, bias)], len(mean), bound, arithmetic)


def _gained(layer: ZeroConv) -> tuple[Tensor, Tensor]:
    """Weight and bias with the gain in them."""
    assert layer.bias is not None
    gain = (layer.log_gain.double() * layer.GAIN).exp()
    return layer.weight * gain[..., None], layer.bias * gain.flatten()


def _convolution(weight: Tensor, bias: Tensor, relu: bool, arithmetic: _Arithmetic) -> Convolution:
    """Of (B, C, size, size), channels last, and its ReLU."""
    size, precision, _ = arithmetic
    weight, bias = weight.to(precision), bias.to(precision)
    padding = [weight.shape[-1] // 2] * 2
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():

        def plain(x: Tensor) -> Tensor:
            out = F.conv2d(x, weight, bias, padding=padding)
            return out.relu_() if relu else out

        return plain
    one = [1, 1]
    activation = "relu" if relu else "none"
    if weight.shape[-1] == 1:
        linear = torch.ops.mkldnn._linear_pointwise.default
        matrix = weight[:, :, 0, 0].contiguous()
        packed = torch.ops.mkldnn._reorder_linear_weight.default(matrix, size**2)

        def one_by_one(x: Tensor) -> Tensor:
            out: Tensor = linear(x.permute(0, 2, 3, 1), packed, bias, activation, [], "")
            return out.permute(0, 3, 1, 2)

        return one_by_one
    convolve = torch.ops.mkldnn._convolution_pointwise.default
    packed = torch.ops.mkldnn._reorder_convolution_weight.default(
        weight, padding, one, one, 1, [1, weight.shape[1], size, size]
    )

    def convolution(x: Tensor) -> Tensor:
        out: Tensor = convolve(x, packed, bias, padding, one, one, 1, activation, [], "")
        return out

    return convolution


def _squeeze(x: Tensor) -> Tensor:
    """`Squeeze`, of (C, B, H, W)."""
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def _unsqueeze(y: Tensor) -> Tensor:
    y = y.unflatten(0, (-1, 2, 2))
    return y.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)
