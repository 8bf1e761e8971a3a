"""Encode and decode of the shipped flow by its runtime, beside its training graph in eval mode,
normflows' Glow of the same shape, where it splits by halves, and the floor of the machine, in one
run.

    python benchmarks/inference.py [--bundle PATH] [--validation PATH] [--json]

All go from uint8 images to latents and from latents to floats in [0, 1], take turns at every
repetition, and must restore every 8-bit value before they are timed. normflows' flow has the same
resolution, levels, steps, hidden widths, affine couplings of 3x3, 1x1 and 3x3 convolutions,
ActNorms and 1x1 convolutions in LU form. As near as normflows comes, these differ:

- its splits only split: ours have a convolution there, the learned prior, which costs us time;
- it scales by a sigmoid, where ours is exp(tanh), and its last convolution has no gain;
- it sums log-determinants both ways, ours only to encode;
- it inverts L and U of every 1x1 convolution to decode, ours W.

Its weights are random and its ActNorms set from the same images: time does not hang on them.

The floor is the multiply-adds over the rate of the machine's matrix product, measured between the
turns in the precision of the runtime's networks, or the bytes of weights, image and latent over
the rate of a copy, whichever takes longer.

With `--validation`, a folder or pack of images, the runtime is held to the flow in float64: every
image's 8-bit values as it comes back, and its values with one direction at strength 1.
"""

import copy
import json
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import normflows
import numpy as np
import torch
import typer
from torch import Tensor, nn

import model
from model.attributes import edited
from model.bundle import Bundle, BundleError
from model.config import FlowConfig
from model.data import Images
from model.flow import Flow
from model.runtime import Runtime, fastest, keep_freed_memory
from peers import normflows_glow

# of the shape that normflows has too: it splits by halves alone
SHIPPED = Path(model.__file__).parent / "bundles" / "faces64.safetensors"
SIZES = (1, 8, 64)


@dataclass(frozen=True)
class Peer:
    """One side of the comparison: uint8 images to latents, latents to floats in [0, 1]."""

    name: str
    parameters: int
    encode: Callable[[Tensor], list[Tensor]]
    decode: Callable[[list[Tensor]], Tensor]


def ours(name: str, flow: Flow, program: Flow | Runtime) -> Peer:
    return Peer(name, _count(flow), program.encode, program.decode)


def theirs(config: FlowConfig, images: Tensor) -> Peer:
    if config.coupling != "affine" or config.permutation != "invertible_1x1" or config.bits != 8:
        raise typer.BadParameter("normflows' Glow has affine couplings and 1x1 convolutions only")
    warnings.filterwarnings("ignore", r"torch\.lu is deprecated")
    glow = normflows_glow(config)
    glow.eval()

    def encode(images: Tensor) -> list[Tensor]:
        return list(glow.inverse_and_log_det((images.float() + 0.5) / 256 - 0.5)[0])

    def decode(latent: list[Tensor]) -> Tensor:
        image: Tensor = glow.forward_and_log_det(latent)[0]
        return image + 0.5

    with torch.no_grad():
        encode(images)  # sets its ActNorms
    return Peer("normflows", _count(glow), encode, decode)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check(peer: Peer, images: Tensor) -> None:
    restored = (peer.decode(peer.encode(images)) * 256).floor().clamp(0, 255).to(torch.uint8)
    wrong = int((restored != images).sum())
    if wrong:
        raise RuntimeError(f"{peer.name} does not restore {wrong} of {images.numel()} values")


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Machine:
    """What it multiplies and copies a second, the best of all its turns so far."""

    def __init__(self, precision: torch.dtype) -> None:
        self.flops = self.bytes = 0.0
        self._operands = [torch.randn(n, n, dtype=precision) for n in (512, 1024)]
        self._memory = torch.zeros(2, 2**25)

    def measure(self) -> None:
        for matrix in self._operands:
            taken = min(seconds(lambda m=matrix: m @ m) for _ in range(10))
            self.flops = max(self.flops, 2 * len(matrix) ** 3 / taken)
        copied, source = self._memory
        taken = seconds(lambda: copied.copy_(source))
        self.bytes = max(self.bytes, 2 * source.nbytes / taken)

    def floor(self, flow: Flow, size: int) -> float:
        """Seconds that a batch takes at least."""
        config = flow.config
        count = 0
        for i, level in enumerate(flow.levels):
            pixels = (config.resolution >> (i + 1)) ** 2
            weights = [m.weight.numel() for m in level.modules() if isinstance(m, nn.Conv2d)]
            channels = 4 * config.input_shapes[i][0]
            count += pixels * (sum(weights) + config.steps[i] * channels**2)
        for i, split in enumerate(flow.splits):
            count += split.prior.weight.numel() * (config.resolution >> (i + 1)) ** 2
        weights_bytes = _count(flow) * self._operands[0].element_size()
        moved = weights_bytes + size * config.dimensions * (8 + 4)
        return max(2 * size * count / self.flops, moved / self.bytes)


def compare(
    peers: list[Peer], images: Tensor, repetitions: int, machines: list[Machine]
) -> dict[str, np.ndarray]:
    """Seconds of every repetition of encode and decode, each (repetitions, peers)."""
    latents = [peer.encode(images) for peer in peers]
    works: dict[str, list[Callable[[], Any]]] = {
        "encode": [partial(peer.encode, images) for peer in peers],
        "decode": [
            partial(peer.decode, latent) for peer, latent in zip(peers, latents, strict=True)
        ],
    }
    for calls in works.values():
        for call in calls:  # warm-up
            call()
    times: dict[str, list[list[float]]] = {name: [] for name in works}
    for repetition in range(repetitions):
        for machine in machines:
            machine.measure()
        for name, calls in works.items():
            turn = calls if repetition % 2 == 0 else calls[::-1]
            taken = [seconds(call) for call in turn]
            times[name].append(taken if repetition % 2 == 0 else taken[::-1])
    return {name: np.array(rows) for name, rows in times.items()}


def fidelity(bundle: Bundle, runtime: Flow | Runtime, images: Tensor) -> dict[str, float]:
    """Images whose 8-bit values differ from those that the flow in float64 gives back, and the mean
    and the largest mean of an image's absolute difference with a direction at strength 1, as far as
    the service takes it, in grey levels; image i has direction i, counted round."""
    flow = bundle.flow
    reference = copy.deepcopy(flow).double()
    vectors = torch.stack([direction.vector.double() for direction in bundle.directions])
    wrong, differences = 0, []
    for start in range(0, len(images), 16):
        batch = images[start : start + 16]
        step = vectors[torch.arange(start, start + len(batch)) % len(vectors)]
        mine, exact = runtime.encode(batch), reference.encode(batch)
        back = flow.quantize(runtime.decode(mine))
        wrong += int((back != flow.quantize(reference.decode(exact))).flatten(1).any(1).sum())
        pictures, share = edited(
            lambda z: runtime.decode(flow.unflatten(z)), flow.flatten(mine), step
        )
        expected = reference.decode(flow.unflatten(flow.flatten(exact) + share[:, None] * step))
        difference = pictures.double().clamp(0, 1) - expected.clamp(0, 1)
        differences.append(difference.abs().mean(dim=(1, 2, 3)) * flow.bins)
    each = torch.cat(differences)
    return {
        "images": len(images),
        "images_wrong": wrong,
        "edit_difference": round(each.mean().item(), 4),
        "edit_difference_worst_image": round(each.max().item(), 4),
    }


def _figures(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = SHIPPED,
    repetitions: Annotated[int, typer.Option(min=1, help="Of a batch of 1.")] = 25,
    threads: Annotated[int, typer.Option(min=0, help="Of torch; 0 leaves its own choice.")] = 0,
    validation: Annotated[Path | None, typer.Option(help="Images to compare edits of.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Time encode and decode beside the training graph, normflows and the machine's floor."""
    keep_freed_memory()  # as the service does
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        shipped = Bundle.load(bundle)
    except BundleError as error:
        raise typer.BadParameter(str(error)) from error
    flow = shipped.flow
    config = flow.config
    with torch.inference_mode():
        images = flow.sample(max(SIZES))
    ready = time.perf_counter()
    runtime = fastest(Bundle.load(bundle).flow)
    with torch.inference_mode():
        runtime.decode(runtime.encode(images[:1]))
    figures: dict[str, Any] = {"ready_s": round(time.perf_counter() - ready, 2)}
    precision = runtime.precision if isinstance(runtime, Runtime) else torch.float32
    peers = [ours("runtime", flow, runtime), ours("training graph", flow, flow)]
    if not config.kept:
        peers.append(theirs(config, images[:8]))
    print(
        f"{shipped.name}: {config.resolution}x{config.resolution}, steps {config.steps}, "
        f"hidden {config.hidden}; parameters: "
        + ", ".join(f"{peer.name} {peer.parameters / 1e6:.2f} M" for peer in peers)
    )
    print(
        f"CPU {platform.machine()}, threads: {torch.get_num_threads()}, torch {torch.__version__}, "
        f"normflows {normflows.__version__}; runtime's networks {precision}, all else float32; "
        f"ready in {figures['ready_s']} s"
    )
    print("milliseconds a batch, median (quartiles) of turns; floor and fraction of it reached\n")
    head = "".join(f"{peer.name:>26}" for peer in peers)
    over = "".join(f"{'/ ' + peer.name:>18}" for peer in peers[1:])
    print(f"{'':18}{head}{over}{'floor':>9}{'':>7}")
    machine, plain = Machine(precision), Machine(torch.float32)
    with torch.inference_mode():
        for peer in peers:
            check(peer, images[:8])
        for size in SIZES:
            turns = max(3, repetitions // size)
            for work, times in compare(peers, images[:size], turns, [machine, plain]).items():
                medians = [float(median) for median in np.median(times, axis=0)]
                floor = machine.floor(flow, size)
                row = f"{work}{size}"
                figures[f"{row}_ms"] = [round(median * 1e3, 2) for median in medians]
                ratios = [median / medians[0] for median in medians[1:]]
                for name, ratio in zip(("eager", "normflows"), ratios, strict=False):
                    figures[f"{row}_over_{name}"] = round(ratio, 3)
                figures[f"{row}_over_floor"] = round(floor / medians[0], 3)
                figures[f"{row}_over_float32_floor"] = round(
                    plain.floor(flow, size) / medians[0], 3
                )
                cells = "".join(f"{_figures(column * 1e3):>26}" for column in times.T)
                print(
                    f"{work + f', batch {size}':18}{cells}"
                    + "".join(f"{ratio:>18.2f}" for ratio in ratios)
                    + f"{floor * 1e3:>9.1f}{floor / medians[0]:>7.0%}"
                )
    figures["gflops"] = round(machine.flops / 1e9, 1)
    figures["float32_gflops"] = round(plain.flops / 1e9, 1)
    print(
        f"\nmatrix product {figures['gflops']} GFLOP/s in {precision}, "
        f"{figures['float32_gflops']} in float32; copy {machine.bytes / 1e9:.1f} GB/s"
    )
    if validation:
        held_out = Images.find(validation, config.resolution, "val").load()
        with torch.inference_mode():
            figures |= fidelity(shipped, runtime, held_out)
        print(
            f"of {figures['images']} images, {figures['images_wrong']} differ at strength 0 from "
            f"float64; at strength 1 by {figures['edit_difference']} grey levels on average, "
            f"{figures['edit_difference_worst_image']} in the worst image"
        )
    if as_json:
        print(json.dumps({**figures, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    typer.run(main)
