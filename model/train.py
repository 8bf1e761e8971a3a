"""Training: maximum likelihood of the dequantized images (Glow, section 2)."""

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from model.data import black_and_white, grid
from model.flow import Flow
from model.layers import ZeroConv
from model.tame import Taming

Log = Callable[[int, dict[str, float]], None]  # step, figures by name

OptimizerName = Literal["adam", "adamax", "soap"]
OPTIMIZERS = get_args(OptimizerName)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The learning rate climbs linearly for `warm_up` steps, stays, and falls by a
    cosine to zero over the last `cool_down`, a share of all steps. `batch` is that of one step of
    all processes together, worked through in `accumulate` parts. What acts on the path of x
    itself (see `on_the_path`) learns at a share of the rate that falls to `path_rate`, by half in
    the first `settle` steps; a flow that was trained before needs none."""

    steps: int = 10_000
    batch: int = 16
    learning_rate: float = 2e-3
    path_rate: float = 0.05
    settle: int = 500
    warm_up: int = 100
    cool_down: float = 0.5
    clip: float = 1.0
    ema: float = 0.998
    optimizer: OptimizerName = "adam"
    accumulate: int = 1
    reversible: bool = False
    jitter: bool = False
    compile: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    max_skipped: int = 50

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        warm = (step + 1) / max(1, self.warm_up)
        left = (self.steps - step) / max(1.0, self.cool_down * self.steps)
        return min(1.0, warm) * 0.5 * (1 - math.cos(math.pi * min(1.0, left)))

    def path_share(self, step: int) -> float:
        """Share of the rate at which what acts on the path learns: all of it at first, when the
        scales are still to be found, half of it after `settle` steps, and so on."""
        return max(self.path_rate, self.settle / (self.settle + step + 1))


class DivergedError(Exception):
    """More steps were not finite than `max_skipped` allows."""


class Objective(nn.Module):
    """Of dequantized images y: the loss to go down, and the mean bits/dim within it.

    They differ where the images have classes, which the flow's classification head then learns
    beside it (the weight is that of Glow's published code), and with `taming`: the `moves` are
    then which of the images move, int64, and what its `loss` takes of these.
    """

    CLASS_WEIGHT = 0.01

    def __init__(self, flow: Flow, taming: Taming | None = None) -> None:
        super().__init__()
        self.flow = flow
        self.taming = taming

    def forward(
        self, y: Tensor, *moves: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        latent, log_det = self.flow(y, labels)
        bits = self.flow.bits_per_dim(self.flow.log_density_of(latent, log_det)).mean()
        loss = bits
        if labels is not None:
            class_loss = F.cross_entropy(self.flow.class_logits(latent, labels), labels)
            loss = loss + self.CLASS_WEIGHT * class_loss / math.log(2)
        if self.taming:
            which, *moves_of_them = moves
            latents = self.flow.flatten(latent)[which]
            labels = None if labels is None else labels[which]
            taming_loss = self.taming.loss(self.flow, y[which], latents, labels, *moves_of_them)
            loss = loss + taming_loss / len(y)
        return loss, bits


class Trainer:
    """One run of training, which `state_dict` and `load_state_dict` stop and resume exactly:
    every random choice is a function of the seed and the step, so neither the number of
    processes nor an interruption changes what is learned, but for the order of sums.

    `labels`, int64 (images,), are the classes of the images, where the flow has classes.
    """

    def __init__(
        self,
        flow: Flow,
        images: Tensor,
        config: TrainConfig,
        labels: Tensor | None = None,
        taming: Taming | None = None,
    ) -> None:
        if len(images) < config.batch:
            raise ValueError(f"{len(images)} images are fewer than one batch of {config.batch}")
        parts = config.accumulate * processes()
        if config.batch % parts:
            raise ValueError(
                f"a batch of {config.batch} cannot be shared by {processes()} processes in "
                f"{config.accumulate} parts"
            )
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels cannot be those of {len(images)} images")
        self.labels = None if labels is None else labels.to(flow.device)
        self.taming = taming
        self.flow = flow
        flow.reversible = config.reversible
        self.config = config
        self.device = flow.device
        self.images = images.to(self.device)
        self.average = AveragedModel(flow, multi_avg_fn=_averaging(config.ema))
        path, weights = on_the_path(flow)
        self.optimizer = _optimizer(
            config.optimizer, [{"params": weights}, {"params": path}], config.learning_rate
        )
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0  # spent in steps
        self.precision = torch.bfloat16 if has_bfloat16(self.device) else torch.float32
        self._loss: nn.Module | None = None

    def batch(self, step: int) -> Tensor:
        """The images of a step (uint8), each epoch in its own order, half of them mirrored."""
        images = self.images[self._chosen(step)]
        generator = self._generator("augmentation", step)
        mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=self.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
        return jittered(images, generator) if self.config.jitter else images

    def _chosen(self, step: int) -> Tensor:
        """Which images a step takes."""
        size = self.config.batch
        epoch, position = divmod(step, len(self.images) // size)
        order = torch.randperm(
            len(self.images), generator=self._generator("order", epoch), device=self.device
        )
        return order[position * size : (position + 1) * size]

    def _noise(self, images: Tensor, step: int) -> Tensor:
        generator = self._generator("noise", step)
        return torch.rand(images.shape, generator=generator, device=self.device)

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        seed = zlib.crc32(f"{self.config.seed} {purpose} {index}".encode())
        return torch.Generator(self.device).manual_seed(seed)

    def initialize(self) -> None:
        """Data-dependent initialisation from the first batches, the same in every process; not for
        a flow that was trained before."""
        images = torch.cat([self.batch(step) for step in range(4)])
        self.flow.initialize(images, self._noise(images, 0))
        self.average.module.load_state_dict(self.flow.state_dict())

    def _objective(self, like: Sequence[Tensor]) -> nn.Module:
        """The loss of tensors like these, wrapped at the first step: what wraps it takes the
        weights as they then are."""
        if self._loss is None:
            if self.config.compile:
                for level in self.flow.levels:
                    for step in level.steps:
                        step.compile()
            self._loss = Objective(self.flow, self.taming)
            if processes() > 1:
                self._loss = DistributedDataParallel(self._loss)
            elif self._records:
                with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                    graphed = torch.cuda.make_graphed_callables(
                        self._loss, tuple(like), allow_unused_input=True
                    )
                self._loss = cast(nn.Module, graphed)
        return self._loss

    @property
    def _records(self) -> bool:
        """Whether steps replay a CUDA graph: the layers are many and their tensors small, so that
        otherwise a GPU waits for Python most of the time."""
        config = self.config
        other_ways = config.reversible or config.compile or config.accumulate > 1 or processes() > 1
        return self.device.type == "cuda" and self.labels is None and not other_ways

    def _classes(self) -> Tensor | None:
        """The classes of the images of a step."""
        return None if self.labels is None else self.labels[self._chosen(self.step)]

    def _moves(self, y: Tensor) -> tuple[Tensor, ...]:
        """What a step tames each of its images y by: as `Taming.draw` has it, and, as y, noise and
        the image that it is mixed with."""
        if self.taming is None:
            return ()
        moves = self.taming.draw(self.config.batch, self._generator("steps", self.step))
        shape = (self.config.batch, *self.images.shape[1:])
        noise = black_and_white(shape, self.flow.bins, self._generator("strange", self.step))
        return *moves, self.flow.dequantize(noise, 0.5), y.roll(1, 0)

    def _mine(self, whole: Tensor | None) -> Sequence[Any]:
        """This process's share of what there is of each image of a step, if there is, in parts."""
        if whole is None:
            return [None] * self.config.accumulate
        return whole[rank() :: processes()].chunk(self.config.accumulate)

    def train_step(self) -> dict[str, float]:
        """One step; its bits/dim and gradient norm. A step that is not finite changes nothing.

        Raises DivergedError past `max_skipped` such steps.
        """
        start = time.perf_counter()
        accumulate = self.config.accumulate
        images = self.batch(self.step)
        y = self.flow.dequantize(images, self._noise(images, self.step))
        y = y.contiguous(memory_format=torch.channels_last)
        wholes = (y, self._classes(), *self._moves(y))
        parts = [
            (part, labels, _those_that_move(*moves))
            for part, labels, *moves in zip(*map(self._mine, wholes), strict=True)
        ]
        autocast = torch.autocast(
            self.device.type,
            self.precision,
            enabled=self.precision != torch.float32,
            cache_enabled=not self._records,  # a graph has to cast the weights itself, each time
        )
        first, _, moves_of_first = parts[0]
        with autocast:  # a graph is recorded as it will be replayed
            objective = self._objective([first, *moves_of_first])
        bits = torch.zeros((), device=self.device)
        self.optimizer.zero_grad()
        for i, (part, labels, moves) in enumerate(parts):
            # gradients are summed over the processes once, with the last part
            waits = isinstance(objective, DistributedDataParallel) and i < accumulate - 1
            with cast(DistributedDataParallel, objective).no_sync() if waits else nullcontext():
                with autocast:
                    # a replay takes no keywords
                    classes = {} if labels is None else {"labels": labels}
                    loss, part_bits = objective(part, *moves, **classes)
                (loss / accumulate).backward()
            bits += part_bits.detach() / accumulate
        if processes() > 1:
            dist.all_reduce(bits)
            bits /= processes()
        norm = nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.clip)
        if torch.isfinite(bits) and torch.isfinite(norm):
            weights, path = self.optimizer.param_groups
            weights["lr"] = self.config.learning_rate * self.config.rate(self.step)
            path["lr"] = weights["lr"] * self.config.path_share(self.step)
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
        """Raises ValueError where the state is that of another flow, or of a run that takes other
        images at each step; a run may well be made longer, or its rate another."""
        run = ("batch", "seed", "optimizer")
        ours = self.flow.config.to_dict() | {name: vars(self.config)[name] for name in run}
        theirs = state["flow_config"] | {name: state["config"][name] for name in run}
        if differing := [name for name, value in theirs.items() if ours.get(name) != value]:
            raise ValueError(
                "the checkpoint is of another run: "
                + ", ".join(f"{name} {theirs[name]}, not {ours.get(name)}" for name in differing)
            )
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.flow.load_state_dict(state["flow"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        torch.save(self.state_dict(), part)
        part.replace(path)

    def run(
        self,
        checkpoint: Callable[["Trainer"], None],
        log: Log = lambda *_: None,
    ) -> None:
        """Train to the last step. The first process calls `log` with the figures of each, and
        `checkpoint` every `checkpoint_every` and at the end."""
        first = rank() == 0
        mean = math.nan
        with tqdm(
            total=self.config.steps, initial=self.step, unit="step", disable=not first
        ) as bar:
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
                due = self.step % self.config.checkpoint_every == 0
                if first:
                    log(self.step, figures)
                    if due or self.step == self.config.steps:
                        checkpoint(self)


def _those_that_move(*moves: Tensor) -> list[Tensor]:
    """Which images move, as many in each step, and what there is of `moves` (`Trainer._moves`) for
    these; or nothing."""
    if not moves:
        return []
    which = moves[0].any(1).nonzero()[:, 0]
    return [which, *(each[which] for each in moves)]


def on_the_path(flow: Flow) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A flow's parameters in two: those that act on the path of x itself (ActNorm, 1x1
    convolutions, priors, and the gains and biases of last convolutions), and the weights within
    the networks. Every pixel feels a move of the former: at the rate that the weights learn best
    at, they shake the likelihood more than the weights improve it."""
    path: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    for module in flow.modules():
        network = isinstance(module, nn.Conv2d | nn.Linear)
        for name, parameter in module.named_parameters(recurse=False):
            inside = network and (name == "weight" or not isinstance(module, ZeroConv))
            (weights if inside else path).append(parameter)
    return path, weights


def _optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], rate: float
) -> torch.optim.Optimizer:
    match name:
        case "adam":
            return torch.optim.Adam(groups, rate, fused=True)
        case "adamax":
            return torch.optim.Adamax(groups, rate)
        case "soap":
            # here, for it takes most of a second, which no other command should wait for
            from pytorch_optimizer import SOAP

            # Adam in the eigenbasis of Shampoo (Vyas et al. 2024), for sides of a weight up to 256
            return SOAP(groups, rate, betas=(0.9, 0.95), weight_decay=0.0, max_precondition_dim=256)


def _averaging(decay: float) -> Callable[..., None]:
    """Exponential moving average that starts as a plain mean, so that the first weights are
    forgotten as soon as there are better ones."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        weight = max(1 - decay, 1 / (float(count) + 1))
        torch._foreach_lerp_(averaged, current, weight)

    return update


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 images turned by up to 3 degrees, shifted and scaled by up to 3 % of their side, and
    brightened by up to 10 %, each by its own draw; what comes in from outside is mirrored."""
    count, device = len(images), images.device
    draw = torch.rand(5, count, generator=generator, device=device) * 2 - 1
    angle, scale = draw[0] * math.radians(3), 1 + 0.03 * draw[1]
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = 0.06 * draw[2:4]  # grid_sample's side is 2
    rows = [cosine, -sine, shift[0], sine, cosine, shift[1]]
    places = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), False)
    moved = F.grid_sample(  # bicubic: a flow that learns only softer pictures knows no sharp one
        images.float(), places, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    brighter = moved * (1 + 0.1 * draw[4])[:, None, None, None]
    return brighter.round().clamp(0, 255).to(torch.uint8)


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started, where it did."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def summary(folder: Path | None) -> Iterator[Log]:
    """Where the figures of each step go: TensorBoard files in a folder, or nowhere."""
    if folder is None or rank() > 0:
        yield lambda *_: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "TensorBoard is missing: pip install glow-editor[tensorboard]"
        ) from error
    with SummaryWriter(str(folder)) as writer:

        def write(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        yield write


@torch.no_grad()
def between(start: Flow, learned: Flow, share: float) -> Flow:
    """The flow whose weights lie a share of the way from those it started with to those it learned:
    much of what a short training taught, without most of what it cost (Wortsman et al. 2022, Robust
    fine-tuning)."""
    flow = copy.deepcopy(learned)
    before = start.state_dict()
    for name, weight in flow.state_dict().items():  # the tensors themselves
        if weight.is_floating_point():
            weight.copy_(before[name].lerp(weight, share))
    return flow


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def bits_per_dim(
    flow: Flow,
    images: Tensor,
    labels: Tensor | None = None,
    batch: int = 16,
    seed: int = 0,
    lean: float = 0,
) -> Tensor:
    """Bits/dim of each image (uint8), (N,), of its class if given, on the CPU; the noise is the
    seed's, and leans as in `Flow.log_prob`."""
    generator = torch.Generator().manual_seed(seed)
    device = flow.device
    bits = []
    for places in torch.arange(len(images)).split(batch):
        classes = None if labels is None else labels[places].to(device)
        log_prob = flow.log_prob(images[places].to(device), generator, classes, lean)
        bits.append(flow.bits_per_dim(log_prob).cpu())
    return torch.cat(bits)


def save_samples(flow: Flow, path: Path, temperature: float = 0.7) -> None:
    """An 8x8 grid of samples as PNG."""
    with torch.no_grad():
        grid(flow.sample(64, temperature).cpu(), columns=8).save(path)
