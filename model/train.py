"""Training: maximum likelihood of the dequantized images (Glow, section 2)."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from model.data import grid
from model.flow import Flow


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The learning rate climbs linearly for `warm_up` steps, stays, and falls by a
    cosine to zero over the last `cool_down`, a share of all steps."""

    steps: int = 10_000
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 100
    cool_down: float = 0.3
    clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    reversible: bool = False
    checkpoint_every: int = 500
    max_skipped: int = 50

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warm = (step + 1) / max(1, self.warm_up)
        left = (self.steps - step) / max(1.0, self.cool_down * self.steps)
        return min(1.0, warm) * 0.5 * (1 - math.cos(math.pi * min(1.0, left)))


class DivergedError(Exception):
    """More steps were not finite than `max_skipped` allows."""


class Trainer:
    """One run of training, which `state_dict` and `load_state_dict` stop and resume exactly:
    every random choice is a function of the seed and the step.

    `labels`, int64 (images,), are the classes of the images, where the flow has classes: its
    classification head then learns beside it, from the sum of both losses in bits (the weight is
    that of Glow's published code).
    """

    CLASS_WEIGHT = 0.01

    def __init__(
        self, flow: Flow, images: Tensor, config: TrainConfig, labels: Tensor | None = None
    ) -> None:
        if len(images) < config.batch:
            raise ValueError(f"{len(images)} images are fewer than one batch of {config.batch}")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels cannot be those of {len(images)} images")
        self.labels = labels
        self.flow = flow
        flow.reversible = config.reversible
        self.images = images
        self.config = config
        self.device = next(flow.parameters()).device
        self.average = AveragedModel(
            flow, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=False
        )
        self.optimizer = torch.optim.Adam(flow.parameters(), config.learning_rate, fused=True)
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0  # spent in steps
        self.precision = torch.bfloat16 if has_bfloat16(self.device) else torch.float32

    def batch(self, step: int) -> Tensor:
        """The images of a step, each epoch in its own order, half of them mirrored."""
        chosen = self.images[self._chosen(step)]
        mirrored = torch.rand(len(chosen), generator=self._generator(step, "cpu")) < 0.5
        return torch.where(mirrored[:, None, None, None], chosen.flip(-1), chosen).to(self.device)

    def _chosen(self, step: int) -> Tensor:
        """Which images a step takes."""
        size = self.config.batch
        epoch, position = divmod(step, len(self.images) // size)
        order = torch.randperm(len(self.images), generator=self._generator(epoch, "cpu"))
        return order[position * size : (position + 1) * size]

    def _generator(self, index: int, device: torch.device | str) -> torch.Generator:
        return torch.Generator(device).manual_seed(self.config.seed * 1_000_003 + index)

    def _noise(self, images: Tensor, step: int) -> Tensor:
        generator = self._generator(step, self.device)
        return torch.rand(images.shape, generator=generator, device=self.device)

    def initialize(self) -> None:
        """Data-dependent initialisation from the first images of the first epoch."""
        images = torch.cat([self.batch(step) for step in range(4)])
        self.flow.initialize(images, self._noise(images, step=0))
        self.average.module.load_state_dict(self.flow.state_dict())

    def train_step(self) -> dict[str, float]:
        """One step; its bits/dim and gradient norm. A step that is not finite changes nothing.

        Raises DivergedError past `max_skipped` such steps.
        """
        start = time.perf_counter()
        images = self.batch(self.step)
        y = self.flow.dequantize(images, self._noise(images, self.step)).contiguous(
            memory_format=torch.channels_last
        )
        labels = None
        if self.labels is not None:
            labels = self.labels[self._chosen(self.step)].to(self.device)
        with torch.autocast(self.device.type, self.precision, self.precision != torch.float32):
            latent, log_det = self.flow(y, labels)
            loss = bits = self.flow.bits_per_dim(self.flow.log_density_of(latent, log_det)).mean()
            if labels is not None:
                class_loss = F.cross_entropy(self.flow.class_logits(latent, labels), labels)
                loss = bits + self.CLASS_WEIGHT * class_loss / math.log(2)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.clip)
        if torch.isfinite(loss) and torch.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * self.config.rate(self.step)
            self.optimizer.step()
            self.average.update_parameters(self.flow)
        else:
            self.skipped += 1
            if self.skipped > self.config.max_skipped:
                raise DivergedError(
                    f"{self.skipped} steps were not finite; lower the learning rate"
                )
        self.step += 1
        self.seconds += time.perf_counter() - start
        return {"bits_per_dim": bits.item(), "gradient_norm": norm.item()}

    @property
    def averaged(self) -> Flow:
        """The flow with the exponential moving average of the weights."""
        flow = self.average.module.eval()
        assert isinstance(flow, Flow)
        return flow

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "flow_config": self.flow.config.to_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "flow": self.flow.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.flow.load_state_dict(state["flow"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        torch.save(self.state_dict(), part)
        part.replace(path)

    def run(self, checkpoint: Callable[["Trainer"], None]) -> None:
        """Train to the last step, calling `checkpoint` every `checkpoint_every` and at the end."""
        mean = math.nan
        with tqdm(total=self.config.steps, initial=self.step, unit="step") as bar:
            while self.step < self.config.steps:
                figures = self.train_step()
                value = figures["bits_per_dim"]
                mean = 0.98 * mean + 0.02 * value if math.isfinite(mean) else value
                bar.update()
                bar.set_postfix(
                    bpd=f"{mean:.3f}",
                    norm=f"{figures['gradient_norm']:.2f}",
                    skipped=self.skipped,
                    refresh=False,
                )
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    checkpoint(self)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def bits_per_dim(flow: Flow, images: Tensor, batch: int = 64, seed: int = 0) -> Tensor:
    """Bits/dim of each image (uint8), (N,), on the CPU; the noise is the seed's."""
    generator = torch.Generator().manual_seed(seed)
    device = next(flow.parameters()).device
    return torch.cat(
        [
            flow.bits_per_dim(flow.log_prob(chunk.to(device), generator)).cpu()
            for chunk in images.split(batch)
        ]
    )


def save_samples(flow: Flow, path: Path, temperature: float = 0.7) -> None:
    """An 8x8 grid of samples as PNG."""
    with torch.no_grad():
        grid(flow.sample(64, temperature).cpu(), columns=8).save(path)
