"""Encode and decode of the shipped flow beside normflows' Glow of the same shape, in one run.

    python benchmarks/inference.py [--bundle PATH] [--json]

Both go from uint8 images to latents and from latents to floats in [0, 1], take turns at every
repetition, and must restore every 8-bit value before they are timed. normflows' flow has the same
resolution, levels, steps, hidden widths, affine couplings of 3x3, 1x1 and 3x3 convolutions,
ActNorms and 1x1 convolutions in LU form. As near as normflows comes, these differ:

- its splits only split: ours have a convolution there, the learned prior, which costs us time;
- it scales by a sigmoid, where ours is exp(tanh), and its last convolution has no gain;
- it sums log-determinants both ways, ours only to encode;
- it inverts L and U of every 1x1 convolution to decode, ours W.

Its weights are random and its ActNorms set from the same images: time does not hang on them.
"""

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
from model.bundle import Bundle, BundleError
from model.config import FlowConfig
from model.flow import Flow
from peers import normflows_glow

SHIPPED = Path(model.__file__).parent / "bundles" / "faces64.safetensors"
BATCH = 32


@dataclass(frozen=True)
class Peer:
    """One side of the comparison: uint8 images to latents, latents to floats in [0, 1]."""

    name: str
    parameters: int
    encode: Callable[[Tensor], list[Tensor]]
    decode: Callable[[list[Tensor]], Tensor]


def ours(flow: Flow) -> Peer:
    return Peer("Glow Editor", _count(flow), flow.encode, flow.decode)


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


def compare(peers: list[Peer], images: Tensor, repetitions: int) -> dict[str, np.ndarray]:
    """Seconds of every repetition of encode and decode, each (repetitions, peers)."""
    latents = [peer.encode(images) for peer in peers]
    works: dict[str, list[Callable[[], Any]]] = {
        "encode": [partial(peer.encode, images) for peer in peers],
        "decode": [
            partial(peer.decode, latent) for peer, latent in zip(peers, latents, strict=True)
        ],
    }
    for calls in works.values():
        for call in [*calls, *calls]:  # warm-up
            call()
    times: dict[str, list[list[float]]] = {name: [] for name in works}
    for repetition in range(repetitions):
        for name, calls in works.items():
            turn = calls if repetition % 2 == 0 else calls[::-1]
            taken = [seconds(call) for call in turn]
            times[name].append(taken if repetition % 2 == 0 else taken[::-1])
    return {name: np.array(rows) for name, rows in times.items()}


def _figures(values: np.ndarray, unit: str) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.1f} {unit} ({low:.1f} to {high:.1f})"


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = SHIPPED,
    repetitions: Annotated[int, typer.Option(min=1, help="Of every measurement.")] = 15,
    threads: Annotated[int, typer.Option(min=0, help="Of torch; 0 leaves its own choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Time encode and decode beside normflows' Glow of the same shape."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        shipped = Bundle.load(bundle)
    except BundleError as error:
        raise typer.BadParameter(str(error)) from error
    config = shipped.flow.config
    with torch.inference_mode():
        images = shipped.flow.sample(BATCH)
    peers = [ours(shipped.flow), theirs(config, images)]
    print(
        f"{shipped.name}: {config.resolution}x{config.resolution}, steps {config.steps}, "
        f"hidden {config.hidden}; parameters: "
        + ", ".join(f"{peer.name} {peer.parameters / 1e6:.2f} M" for peer in peers)
    )
    print(
        f"CPU {platform.machine()}, threads: {torch.get_num_threads()}, torch {torch.__version__}, "
        f"normflows {normflows.__version__}, float32; median (quartiles) of {repetitions} turns"
    )
    print(f"\n{'':18}{peers[0].name:>30}{peers[1].name:>30}{'ratio':>8}")
    ratios: dict[str, float] = {}
    milliseconds: dict[str, list[float]] = {}
    with torch.inference_mode():
        for peer in peers:
            check(peer, images)
        for size in (1, BATCH):
            for work, times in compare(peers, images[:size], repetitions).items():
                medians = np.median(times, axis=0)
                ratio = float(medians[1] / medians[0])
                ratios[f"{work}{size}_over_normflows"] = round(ratio, 3)
                milliseconds[f"{work}{size}_ms"] = [round(float(m) * 1e3, 2) for m in medians]
                row, unit = (times * 1e3, "ms") if size == 1 else (size / times, "img/s")
                cells = "".join(f"{_figures(column, unit):>30}" for column in row.T)
                print(f"{work + f', batch {size}':18}{cells}{ratio:>8.2f}")
    print("\nratio: how many times as fast as normflows")
    if as_json:
        print(json.dumps({**ratios, **milliseconds, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    typer.run(main)
