"""A frozen flow as the fastest program for its device, with the same numbers.

Folding: ActNorm and permutation are one matrix and one bias, both ways, in float64; the gain of a
coupling network's last layer and the bound of its log-scale are in its weights; the prior of a
split is a coupling whose network is one convolution. The path of x is in float64, channels first,
(C, B, H, W): the halves of a coupling are then views and a 1x1 convolution one matrix product.
The networks run in oneDNN, ReLU in the same call, weights laid out once, and in bfloat16 where
the processor multiplies it.

Exactness: decode gives a picture back if each network sees there what it saw in encode. oneDNN
gives an image the same bits in every batch, and the path of x comes back within `PATH_ERROR`. A
number that close to a tie of what the networks see, multiples of 2**-11, could still round to the
other side; encode looks for such numbers, and takes the few images that have one at another point
of their 8-bit bins. Without (float32 as it comes), noise of black and white came back from a tamed
flow with 4 pictures of 256 wrong.
"""

import ctypes
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.flow import Flow, Latent, Level
from model.layers import (
    ROUGH,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    CouplingNetwork,
    Split,
    ZeroConv,
)

PATH_ERROR = 1e-10  # of x, from encode to decode: 3e-14 on faces, 9e-11 on black and white noise
POINTS = [0.5 + i / 64 for i in range(8)]  # of a bin, tried in turn
FINE_PIXELS = 64  # a level of no more has float32 networks, which cost it little
CHUNK = 16  # images, whose activations fit in the cache
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # batch sizes that a GPU has graphs for

Convolution = Callable[[Tensor], Tensor]
_Key = tuple[torch.dtype, int, int]  # a network's precision, inputs and outputs
Program = Callable[[list[Tensor], Tensor | None], list[Tensor]]  # of tensors and labels, (B, ...)


def folds(flow: Flow) -> bool:
    """Whether `Runtime` knows the family: Glow in all its settings, but neither RealNVP's
    checkerboards and residual blocks nor NICE's perceptrons."""
    config = flow.config
    return not (config.flat or any(config.checkerboard) or config.residual)


def fastest(flow: Flow) -> "Frozen":
    """What serves a frozen flow: its runtime, or itself where its family does not fold."""
    return Runtime(flow) if folds(flow) else flow


def network_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU that multiplies it, else float32."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def keep_freed_memory() -> None:
    """Has glibc keep what a batch frees for the next one, for the whole process. By itself it gives
    large blocks back to the system, and faulting their pages in again is up to 0.4 of a decode."""
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_ARENA_MAX, 1)  # other arenas are made of small pieces, which are given back


class Runtime:
    """A flow that no longer changes, on its device: a call, `encode` and `decode`, whose arguments
    and results are those of `Flow`. `precision` is that of the coupling networks, by default the
    fastest that is exact; a latent decodes exactly with the precision that encoded it. One call at
    a time: calls share buffers.

    Raises ValueError for a flow of a family that does not fold.
    """

    def __init__(self, flow: Flow, precision: torch.dtype | None = None) -> None:
        if not folds(flow):
            raise ValueError("checkerboards, residual blocks and perceptrons do not fold")
        self.flow = flow
        self.config, self.bins, self.device = flow.config, flow.bins, flow.device
        self.flatten, self.unflatten, self.quantize = flow.flatten, flow.unflatten, flow.quantize
        self.precision = precision or network_precision(flow.device)
        self._graphs: dict[tuple[Program, int, bool], _Graph] = {}
        with torch.no_grad():
            splits: list[Split | None] = [*flow.splits, None]
            self._levels = [
                _Level(level, split, flow.config.resolution >> (i + 1), self.precision)
                for i, (level, split) in enumerate(zip(flow.levels, splits, strict=True))
            ]

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
    def __call__(self, y: Tensor, labels: Tensor | None = None) -> tuple[Latent, Tensor]:
        *latent, log_det, _ = self._run(self._forward, [y.double()], labels)
        return latent, log_det

    def set_threads(self, most: int | None = None) -> int:
        """Gives torch, in this thread, as many threads as decode one image soonest, `most` or by
        default what it has now at most, and says how many."""
        decode = partial(self._run, self._inverse, self.flow.sample_latent(1), None)
        counts = [1]
        while 2 * counts[-1] <= (most or torch.get_num_threads()):
            counts.append(2 * counts[-1])
        taken: defaultdict[int, list[float]] = defaultdict(list)
        for count in counts * 4:  # by turns: what else the machine does is not to decide
            torch.set_num_threads(count)
            decode()
            taken[count] += (_seconds(decode) for _ in range(3))
        best = min(counts, key=lambda count: min(taken[count]))
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
        for level in self._levels:
            state = level.forward(x, found)
            if level.split:
                x = state.parted.kept
                parts.append(_batch_first(state.parted.moved))
        part, change = self.flow.prior(_batch_first(state.whole), labels)
        return [*parts, part, found.log_det + change, found.unsafe]

    def _inverse(self, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
        *parts, last = [part.double() for part in inputs]
        x = self.flow.prior.inverse(last, labels).transpose(0, 1)
        for level in reversed(self._levels):
            part = parts.pop().transpose(0, 1) if level.split else None
            x = level.inverse(x, part)
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
        if len(batches) == 1:
            return batches[0]
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


Frozen = Flow | Runtime  # what takes the one takes the other


def _call(program: Program, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
    return program(inputs, labels)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class _Graph:
    """A program recorded for one batch size, on tensors that stay where they are."""

    def __init__(
        self, program: Program, inputs: list[Tensor], labels: Tensor | None, size: int
    ) -> None:
        def still(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(size, *tensor.shape[1:])

        self._inputs = [still(tensor) for tensor in inputs]
        self._labels = None if labels is None else still(labels)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # TF32 would round what kernels of other batch sizes add up a little differently: a latent
        # has to decode in any
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
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
    rounds: bool  # their input to multiples of 2**-11


class _Level:
    """Squeeze, steps and split, in buffers that every batch of the same size uses again."""

    def __init__(
        self, level: Level, split: Split | None, size: int, precision: torch.dtype
    ) -> None:
        # a GPU's graphs cannot stop to ask whether any number is near a tie
        rounds = next(level.parameters()).device.type == "cpu"
        fine = torch.float32 if size**2 <= FINE_PIXELS else precision
        self.steps = [_Step(chain, _Arithmetic(size, fine, rounds)) for chain in level.steps]
        self.split = _of_split(split, _Arithmetic(size, torch.float32, rounds)) if split else None
        self._kept = split.kept if split else 0
        self.size = size
        self._log_det = sum(step.log_det for step in self.steps) * size**2
        self._states: dict[int, tuple[_State, _State]] = {}

    def _state(self, x: Tensor) -> tuple["_State", "_State"]:
        count = x.shape[1]
        if count not in self._states:
            matrix = self.steps[0].matrix
            shape = (len(matrix), count, self.size, self.size)
            buffers: dict[_Key, _Buffers] = {}
            self._states[count] = (
                _State(matrix.new_empty(shape), self._kept, buffers),
                _State(matrix.new_empty(shape), self._kept, buffers),
            )
        return self._states[count]

    def forward(self, x: Tensor, found: _Found) -> "_State":
        now, other = self._state(x)
        now.squeezed.copy_(x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)))
        for step in self.steps:
            torch.addmm(step.bias, step.matrix, now.flat, out=other.flat)
            now, other = other, now
            step.coupling.forward(now.halves, found)
        if self.split:
            self.split.forward(now.parted, found)
        found.log_det += self._log_det
        return now

    def inverse(self, x: Tensor, part: Tensor | None) -> Tensor:
        now, other = self._state(x)
        if self.split and part is not None:
            now.parted.kept.copy_(x)
            now.parted.moved.copy_(part)
            self.split.inverse(now.parted)
        else:
            now.whole.copy_(x)
        for step in reversed(self.steps):
            step.coupling.inverse(now.halves)
            torch.addmm(step.inverse_bias, step.inverse_matrix, now.flat, out=other.flat)
            now, other = other, now
        unsqueezed: Tensor = now.squeezed.flatten(4).flatten(2, 3)
        return unsqueezed


class _Parted:
    """x as the channels that a network sees and those that it moves, and what it computes in."""

    def __init__(self, whole: Tensor, kept: int, buffers: dict[_Key, "_Buffers"]) -> None:
        self.kept, self.moved = whole.tensor_split([kept])
        self.buffers = buffers


class _State:
    """x within a level, (C, B, H, W) in float64, and its views: by halves for couplings, and after
    the first `kept` for the split."""

    def __init__(self, whole: Tensor, kept: int, buffers: dict[_Key, "_Buffers"]) -> None:
        self.whole = whole
        self.flat = whole.flatten(1)
        self.halves = _Parted(whole, (len(whole) + 1) // 2, buffers)
        self.parted = _Parted(whole, kept, buffers)
        self.squeezed = whole.unflatten(0, (-1, 2, 2)).permute(0, 3, 4, 1, 5, 2)


class _Step:
    """ActNorm and permutation as one matrix and bias, then the coupling."""

    def __init__(self, chain: Chain, arithmetic: _Arithmetic) -> None:
        *linear, coupling = chain.layers
        assert isinstance(coupling, AffineCoupling | AdditiveCoupling)
        self.coupling = _of_coupling(coupling, arithmetic)
        # What the layers make of zero is the bias, of each unit vector a column of the matrix.
        device = next(coupling.parameters()).device
        unit = torch.eye(2 * coupling.kept, dtype=torch.float64, device=device)
        x = torch.cat([torch.zeros_like(unit[:1]), unit])[:, :, None, None]
        for layer in linear:
            x, _ = layer(x)
        x = x[:, :, 0, 0].T
        self.bias = x[:, :1].contiguous()
        self.matrix = x[:, 1:] - self.bias
        self.inverse_matrix = torch.linalg.inv(self.matrix)
        self.inverse_bias = -self.inverse_matrix @ self.bias
        self.log_det = torch.linalg.slogdet(self.matrix).logabsdet.item()


class _Coupling:
    """y1 = x1, y2 = (x2 - m(x1)) exp(bound tanh(s(x1))); 2 s and m are the first and the last half
    of what the convolutions give, or all is m where there is no `bound`. Works in place."""

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], bound: float | None, arithmetic: _Arithmetic
    ) -> None:
        self.bound = bound
        self.arithmetic = arithmetic
        self.outputs = len(layers[-1][1])
        self.convolutions = [
            _convolution(*layer, relu=layer is not layers[-1], arithmetic=arithmetic)
            for layer in layers
        ]

    def forward(self, x: _Parted, found: _Found) -> None:
        use = self._buffers(x)
        if self.arithmetic.rounds:
            torch.add(x.kept, ROUGH - PATH_ERROR, out=use.below)
            torch.add(x.kept, ROUGH + PATH_ERROR, out=use.rough)
            if not torch.equal(use.below, use.rough):
                found.unsafe |= (use.below != use.rough).any(3).any(2).any(0)
                torch.add(x.kept, ROUGH, out=use.rough)
            torch.sub(use.rough, ROUGH, out=use.seen)
        else:
            use.seen.copy_(x.kept)
        self._run(use, found)
        x.moved.sub_(use.mean)
        if self.bound is not None:
            x.moved.mul_(use.scale)

    def inverse(self, y: _Parted) -> None:
        use = self._buffers(y)
        if self.arithmetic.rounds:
            torch.add(y.kept, ROUGH, out=use.rough)
            torch.sub(use.rough, ROUGH, out=use.seen)
        else:
            use.seen.copy_(y.kept)
        self._run(use)
        if self.bound is None:
            y.moved.add_(use.mean)
        else:
            torch.addcdiv(use.mean, y.moved, use.scale, out=y.moved)

    def _buffers(self, x: _Parted) -> "_Buffers":
        precision = self.arithmetic.precision
        key = precision, len(x.kept), self.outputs
        if key not in x.buffers:
            x.buffers[key] = _Buffers(x, precision, self.outputs)
        return x.buffers[key]

    def _run(self, use: "_Buffers", found: _Found | None = None) -> None:
        """From what is seen to scale and mean."""
        x = use.x
        for convolution in self.convolutions:
            x = convolution(x)
        use.out.copy_(x.transpose(0, 1))
        if self.bound is not None:
            # bound tanh(s) by the sigmoid of 2 s, which torch computes six times as fast
            use.log_scale.sigmoid_().mul_(2 * self.bound).sub_(self.bound)
            if found is not None:
                found.log_det += use.log_scale.sum((0, 2, 3), dtype=torch.float64)
            use.log_scale.exp_()
        use.out64.copy_(use.out)


class _Buffers:
    """What couplings compute in, for an x of one shape, and its views."""

    def __init__(self, of: _Parted, precision: torch.dtype, outputs: int) -> None:
        inputs, *place = of.kept.shape
        moved = len(of.moved)
        self.rough = torch.empty_like(of.kept, dtype=torch.float32)
        self.below = torch.empty_like(self.rough)
        x = of.kept.new_empty((*place, inputs), dtype=precision)
        self.x, self.seen = x.permute(0, 3, 1, 2), x.permute(3, 0, 1, 2)
        self.out = of.kept.new_empty((outputs, *place), dtype=torch.float32)
        self.out64 = of.kept.new_empty((outputs, *place))
        self.log_scale = self.out[:moved]
        self.scale, self.mean = self.out64[:moved], self.out64[-moved:]


def _of_coupling(coupling: AffineCoupling | AdditiveCoupling, arithmetic: _Arithmetic) -> _Coupling:
    network = cast(CouplingNetwork, coupling.network)
    hidden = cast(list[nn.Conv2d], [network.first, network.middle, *network.further])
    layers = [(layer.weight, cast(Tensor, layer.bias)) for layer in hidden]
    weight, bias = _gained(network.last)
    factor = torch.full_like(bias, -1.0)  # m = -t
    bound = None
    if isinstance(coupling, AffineCoupling):
        bound = coupling.bound
        factor[: len(bias) // 2] = 2 / bound
    layers.append((weight * factor[:, None, None, None], bias * factor))
    return _Coupling(layers, bound, arithmetic)


def _of_split(split: Split, arithmetic: _Arithmetic) -> _Coupling:
    (mean, log_scale), (mean_bias, log_scale_bias) = (t.chunk(2) for t in _gained(split.prior))
    bound = split.LOG_SCALE_BOUND
    weight = torch.cat([-2 / bound * log_scale, mean])
    bias = torch.cat([-2 / bound * log_scale_bias, mean_bias])
    return _Coupling([(weight, bias)], bound, arithmetic)


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


def _batch_first(x: Tensor) -> Tensor:
    """A copy as (B, C, H, W)."""
    return x.transpose(0, 1).clone(memory_format=torch.contiguous_format)
