"""Memory and time of a training step by depth: the reversible backward beside plain autograd,
activation checkpointing (one checkpoint a step of the flow) and normflows' Glow, in one run.

    python benchmarks/memory.py [--json]

64x64 pictures, batch 16, 3 levels, hidden 128, float32, 8 and 64 steps per level. Each case has a
process of its own. It makes one training step, so that parameters, their gradients and Adam's
moments are all there; memory is the highest the process gets in the next above what it then holds
(VmHWM over VmRSS, Linux), and time is that of the next.
"""

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import FlowConfig
from model.flow import Flow
from model.layers import Chain
from peers import normflows_glow

BATCH, LEVELS, HIDDEN, RESOLUTION = 16, 3, 128, 64
DEPTHS = (8, 64)
KINDS = ("reversible", "plain", "checkpointing", "normflows")


class Checkpointed(Chain):
    """A step of the flow whose activations torch.utils.checkpoint recomputes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = checkpoint(super().forward, x, use_reentrant=False)
        return result


def training_step(kind: str, depth: int) -> Callable[[], None]:
    config = FlowConfig(resolution=RESOLUTION, steps=(depth,) * LEVELS, hidden=(HIDDEN,) * LEVELS)
    images = torch.randint(0, 256, (BATCH, 3, RESOLUTION, RESOLUTION), dtype=torch.uint8)
    flow: nn.Module
    if kind == "normflows":
        flow = normflows_glow(config)
        y = images.float() / 256 - 0.5

        def loss() -> Tensor:
            return -flow.log_prob(y, None).mean()
    else:
        ours = flow = Flow(config)
        ours.initialize(images)
        ours.reversible = kind == "reversible"
        if kind == "checkpointing":
            for level in ours.levels:
                for step in level.steps:
                    step.__class__ = Checkpointed
        y = ours.dequantize(images)

        def loss() -> Tensor:
            return -ours.log_density(y).mean()

    optimizer = torch.optim.Adam(flow.parameters(), 1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss().backward()
        optimizer.step()

    return step


def status(field: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(kind: str, depth: int) -> dict[str, float]:
    step = training_step(kind, depth)
    step()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is not held
    held = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    return {"mib": (status("VmHWM") - held) / 2**20, "seconds": seconds}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    case: Annotated[tuple[str, int] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print memory and time of a training step by depth."""
    if case:
        print(json.dumps(measure(*case)))
        return
    print(f"batch {BATCH}, {LEVELS} levels, hidden {HIDDEN}, {torch.get_num_threads()} threads\n")
    print(f"{'':15}" + "".join(f"{f'{depth} steps per level':>28}" for depth in DEPTHS))
    found: dict[tuple[str, int], dict[str, float]] = {}
    for kind in KINDS:
        cells = ""
        for depth in DEPTHS:
            command = [sys.executable, __file__, "--case", kind, str(depth)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            figures = found[kind, depth] = json.loads(run.stdout.splitlines()[-1])
            cells += f"{figures['mib']:>14,.0f} MiB {figures['seconds']:>7.2f} s"
        print(f"{kind:15}{cells}")
    shallow, deep = DEPTHS
    ratios = {
        "depth8_mib": found["reversible", shallow]["mib"],
        "depth64_mib": found["reversible", deep]["mib"],
        "plain64_mib": found["plain", deep]["mib"],
        "time_ratio": max(
            found["reversible", depth]["seconds"] / found["plain", depth]["seconds"]
            for depth in DEPTHS
        ),
    }
    print(
        f"\nreversible: {ratios['depth64_mib'] / ratios['depth8_mib']:.2f} times the memory at "
        f"{deep} steps as at {shallow}, 1/{ratios['plain64_mib'] / ratios['depth64_mib']:.1f} of "
        f"plain at {deep}; time at most {ratios['time_ratio']:.2f} of plain"
    )
    if as_json:
        print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    typer.run(main)
