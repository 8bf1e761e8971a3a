"""Training throughput beside normflows' and FrEIA's Glow of the same shape, in one run.

    python benchmarks/training.py [--json]

64x64 pictures; a step is the likelihood, its gradients and Adam. All take turns at every
repetition. Ours trains in bfloat16 networks on a float32 path where the processor has bfloat16;
the peers, whose paths autocast would round as well, in float32, as does our second row.
"""

import json
import time
from collections.abc import Callable
from typing import Annotated

import normflows
import numpy as np
import torch
import typer
from torch import Tensor, nn

from model.config import PRESETS, FlowConfig
from model.flow import Flow
from model.layers import standard_normal_log_prob
from model.train import has_bfloat16
from peers import freia_glow, normflows_glow

Step = Callable[[], None]


def stepper(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), 1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    step()
    return step


def ours(config: FlowConfig, images: Tensor, bfloat16: bool) -> Step:
    flow = Flow(config)
    flow.initialize(images)

    def loss() -> Tensor:
        y = flow.dequantize(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            return -flow.log_density(y).mean()

    return stepper(flow, loss)


def theirs(config: FlowConfig, images: Tensor) -> Step:
    glow = normflows_glow(config)
    return stepper(glow, lambda: -glow.log_prob(images.float() / 256 - 0.5, None).mean())


def freia(config: FlowConfig, images: Tensor) -> Step:
    glow = freia_glow(config)

    def loss() -> Tensor:
        parts, log_det = glow(images.float() / 256 - 0.5)
        return -(log_det + sum(standard_normal_log_prob(part) for part in parts)).mean()

    return stepper(glow, loss)


def main(
    batch: Annotated[int, typer.Option(min=1)] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Of every measurement.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Time a training step beside normflows and FrEIA."""
    config = PRESETS["glow64"]
    images = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
    steps = {
        "Glow Editor, bfloat16": ours(config, images, has_bfloat16(torch.device("cpu"))),
        "Glow Editor, float32": ours(config, images, False),
        "normflows": theirs(config, images),
        "FrEIA": freia(config, images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    print(
        f"steps {config.steps}, hidden {config.hidden}, batch {batch}; "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"normflows {normflows.__version__}; median of {repetitions}\n"
    )
    rates = {name: batch / float(np.median(taken)) for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:24}{rate:>8.1f} img/s{rate / rates['normflows']:>8.2f} of normflows")
    if as_json:
        print(json.dumps({name: round(rate, 2) for name, rate in rates.items()}))


if __name__ == "__main__":
    typer.run(main)
