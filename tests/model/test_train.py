"""Training: it learns, it repeats, it stops and goes on, and what is not finite does no harm."""

import copy
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer
from typer.testing import CliRunner

import model.tame
from model.__main__ import app
from model.bundle import Bundle, Direction
from model.config import PRESETS, FlowConfig
from model.data import black_and_white
from model.flow import Flow
from model.tame import MOVED, Taming, burst_loss, stray
from model.train import (
    DivergedError,
    TrainConfig,
    Trainer,
    bits_per_dim,
    jittered,
    on_the_path,
    save_samples,
)
from tests.helpers import unframed

SHORT = TrainConfig(steps=8, batch=8, learning_rate=5e-3, warm_up=2, ema=0.5)


def new_trainer(images: Tensor, config: TrainConfig = SHORT, weights: int = 0) -> Trainer:
    torch.manual_seed(weights)
    flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8)))
    trainer = Trainer(flow, images, config)
    trainer.initialize()
    return trainer


def losses(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.train_step()["bits_per_dim"] for _ in range(steps)]


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of a nested state, in order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)


def assert_same_state(first: Trainer, second: Trainer) -> None:
    for part in ("flow", "average", "optimizer"):
        ours, theirs = (list(tensors(trainer.state_dict()[part])) for trainer in (first, second))
        assert len(ours) == len(theirs) > 0
        assert all(map(torch.equal, ours, theirs)), part
    assert (first.step, first.skipped) == (second.step, second.skipped)


class TestLearning:
    def test_bits_per_dim_fall(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures, replace(SHORT, steps=60))
        untrained = bits_per_dim(trainer.flow, pictures).mean()
        seen = losses(trainer, 60)
        assert sum(seen[-5:]) / 5 < sum(seen[:5]) / 5 - 0.5
        assert bits_per_dim(trainer.averaged, pictures).mean() < untrained - 0.5

    def test_a_trained_flow_is_still_exact(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures)
        losses(trainer, 8)
        for flow in (trainer.flow, trainer.averaged):
            restored = flow.quantize(flow.decode(flow.encode(pictures)))
            assert torch.equal(restored, pictures)

    def test_the_loss_is_the_bits_per_dim_of_the_batch(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures)
        expected = bits_per_dim(trainer.flow, trainer.batch(0)).mean().item()
        assert trainer.train_step()["bits_per_dim"] == pytest.approx(expected, abs=0.1)

    def test_initialisation_reaches_the_average(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures)
        ours, theirs = (flow.state_dict() for flow in (trainer.flow, trainer.averaged))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_the_average_is_exponential(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures)
        trainer.train_step()
        expected = trainer.flow.prior.mean.detach().clone()  # the first step's weights count whole
        for _ in range(3):
            trainer.train_step()
            expected = 0.5 * expected + 0.5 * trainer.flow.prior.mean.detach()
        torch.testing.assert_close(trainer.averaged.prior.mean.detach(), expected)

    def test_gradients_are_clipped(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures, replace(SHORT, clip=0.01))
        assert trainer.train_step()["gradient_norm"] > 0.01
        norms = [p.grad.norm() for p in trainer.flow.parameters() if p.grad is not None]
        assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)

    def test_fewer_images_than_a_batch(self, pictures: Tensor, flow: Flow) -> None:
        with pytest.raises(ValueError, match="7 images are fewer than one batch of 8"):
            Trainer(flow, pictures[:7], SHORT)


class TestBatches:
    def test_an_epoch_shows_every_image_once(self, flow: Flow) -> None:
        """Images that are all of one value, so that a mirrored one is itself."""
        images = torch.arange(40).to(torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8)
        trainer = Trainer(flow, images, SHORT)
        epochs = [
            torch.cat([trainer.batch(5 * epoch + i)[:, 0, 0, 0] for i in range(5)]).tolist()
            for epoch in range(2)
        ]
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
        assert epochs[0] != epochs[1]

    def test_about_half_are_mirrored(self, flow: Flow) -> None:
        image = torch.arange(8).to(torch.uint8).expand(3, 8, 8)
        trainer = Trainer(flow, image.expand(64, 3, 8, 8), replace(SHORT, batch=64))
        batch = torch.cat([trainer.batch(step) for step in range(4)])
        as_it_is = (batch == image).all(dim=(1, 2, 3))
        mirrored = (batch == image.flip(-1)).all(dim=(1, 2, 3))
        assert (as_it_is ^ mirrored).all()
        assert 0.4 < mirrored.float().mean() < 0.6


class TestRepeating:
    def test_the_same_seed_gives_the_same_run(self, pictures: Tensor) -> None:
        first, second = new_trainer(pictures), new_trainer(pictures)
        assert losses(first, 4) == losses(second, 4)
        assert_same_state(first, second)

    def test_another_seed_gives_another_run(self, pictures: Tensor) -> None:
        first, second = new_trainer(pictures), new_trainer(pictures, replace(SHORT, seed=1))
        assert losses(first, 2) != losses(second, 2)

    def test_nothing_hangs_on_the_global_generator(self, pictures: Tensor, flow: Flow) -> None:
        """Every random choice is a function of the seed and the step."""
        runs = []
        for state in (1, 2):
            torch.manual_seed(state)
            trainer = Trainer(copy.deepcopy(flow), pictures, SHORT)
            trainer.initialize()
            runs.append(losses(trainer, 2))
        assert runs[0] == runs[1]


class TestResuming:
    @pytest.mark.parametrize("stop", [0, 1, 5])
    def test_equals_the_uninterrupted_run(
        self, pictures: Tensor, tmp_path: Path, stop: int
    ) -> None:
        """Past the end of an epoch, of the warm-up and into the cool-down, bit for bit."""
        whole = new_trainer(pictures)
        expected = losses(whole, 8)

        before = new_trainer(pictures)
        seen = losses(before, stop)
        before.save(tmp_path / "run.ckpt")
        after = new_trainer(pictures, weights=99)
        after.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=True))
        torch.rand(7)  # whatever else the process drew
        seen += losses(after, 8 - stop)

        assert seen == expected
        assert_same_state(after, whole)

    def test_another_runs_state_is_refused_in_words(self, pictures: Tensor) -> None:
        state = new_trainer(pictures).state_dict()
        state["config"] |= {"steps": 99, "learning_rate": 0.5}
        new_trainer(pictures).load_state_dict(state)
        state["config"] |= {"batch": 2}
        state["flow_config"] |= {"hidden": (16, 16)}
        with pytest.raises(
            ValueError, match=r"another run: hidden \(16, 16\), not .* batch 2, not"
        ):
            new_trainer(pictures).load_state_dict(state)

    def test_keeps_the_count_of_skipped_steps(self, pictures: Tensor, tmp_path: Path) -> None:
        trainer = new_trainer(pictures)
        trainer.skipped = 3
        trainer.save(tmp_path / "run.ckpt")
        other = new_trainer(pictures)
        other.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=True))
        assert other.skipped == 3

    def test_save_replaces_the_file_in_one_step(self, pictures: Tensor, tmp_path: Path) -> None:
        path = tmp_path / "run.ckpt"
        trainer = new_trainer(pictures)
        trainer.save(path)
        old = path.read_bytes()
        with path.open("rb") as reader:
            trainer.train_step()
            trainer.save(path)
            assert reader.read() == old
        assert list(tmp_path.iterdir()) == [path]
        assert torch.load(path, weights_only=True)["step"] == 1


class TestNotFinite:
    @pytest.fixture
    def trainer(self, pictures: Tensor) -> Trainer:
        trainer = new_trainer(pictures, replace(SHORT, max_skipped=2))
        losses(trainer, 2)
        return trainer

    @staticmethod
    def overflow(trainer: Trainer, log_scale: float = -1000.0) -> None:
        with torch.no_grad():
            trainer.flow.prior.log_scale[0, 0, 0] = log_scale

    @staticmethod
    def state(trainer: Trainer) -> list[Tensor]:
        state = trainer.state_dict()
        kept = [state["flow"], state["average"], state["optimizer"]["state"]]
        return [tensor.clone() for part in kept for tensor in tensors(part)]

    @pytest.mark.parametrize("log_scale", [-1000.0, math.inf])
    def test_a_loss_changes_nothing_and_is_counted(
        self, trainer: Trainer, log_scale: float
    ) -> None:
        """With a gradient that is not finite either, and with one that is."""
        self.overflow(trainer, log_scale)
        before = self.state(trainer)
        figures = trainer.train_step()
        assert not math.isfinite(figures["bits_per_dim"])
        assert math.isfinite(figures["gradient_norm"]) == (log_scale > 0)
        assert all(map(torch.equal, self.state(trainer), before))
        assert (trainer.step, trainer.skipped) == (3, 1)

    def test_a_gradient_changes_nothing_and_is_counted(self, trainer: Trainer) -> None:
        handle = trainer.flow.prior.mean.register_hook(lambda gradient: gradient * math.inf)
        before = self.state(trainer)
        figures = trainer.train_step()
        assert math.isfinite(figures["bits_per_dim"])
        assert not math.isfinite(figures["gradient_norm"])
        assert all(map(torch.equal, self.state(trainer), before))
        assert (trainer.step, trainer.skipped) == (3, 1)

        handle.remove()
        trainer.train_step()
        assert trainer.skipped == 1
        assert not all(map(torch.equal, self.state(trainer), before))

    def test_diverges_past_the_bound(self, trainer: Trainer) -> None:
        self.overflow(trainer)
        trainer.train_step()
        trainer.train_step()
        with pytest.raises(DivergedError, match="3 steps were not finite"):
            trainer.train_step()


class TestSchedule:
    CONFIG = TrainConfig(steps=1000, warm_up=100, cool_down=0.3)

    def test_climbs_linearly(self) -> None:
        rates = [self.CONFIG.rate(step) for step in range(100)]
        assert rates == pytest.approx([(step + 1) / 100 for step in range(100)])

    def test_stays(self) -> None:
        assert {self.CONFIG.rate(step) for step in range(99, 701)} == {1.0}

    def test_falls_by_a_cosine_to_zero(self) -> None:
        rates = [self.CONFIG.rate(step) for step in range(700, 1001)]
        assert rates == sorted(rates, reverse=True)
        assert rates[150] == pytest.approx(0.5)
        assert rates[75] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
        assert 0 < rates[-2] < 1e-4
        assert rates[-1] == 0

    @pytest.mark.parametrize("steps", [1, 2, 10])
    def test_a_short_run_still_learns(self, steps: int) -> None:
        config = TrainConfig(steps=steps)
        assert all(0 < config.rate(step) <= 1 for step in range(steps))

    def test_the_path_settles(self) -> None:
        config = TrainConfig(path_rate=0.05)
        shares = [config.path_share(step) for step in (0, 500, 1500, 9500, 20_000)]
        assert shares == pytest.approx([1, 0.5, 0.25, 0.05, 0.05], rel=0.01)
        settled = replace(config, settle=0)
        assert {settled.path_share(step) for step in (0, 1, 500)} == {0.05}

    def test_no_warm_up_or_cool_down(self) -> None:
        config = TrainConfig(steps=10, warm_up=0, cool_down=0)
        assert [config.rate(step) for step in range(10)] == [1.0] * 10

    def test_the_optimizer_follows_it(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures)
        for step in range(8):
            trainer.train_step()
            weights, path = trainer.optimizer.param_groups
            assert weights["lr"] == SHORT.learning_rate * SHORT.rate(step)
            assert path["lr"] == weights["lr"] * SHORT.path_share(step)

    def test_what_acts_on_the_path_learns_apart(self, pictures: Tensor) -> None:
        flow = new_trainer(pictures).flow
        path, weights = on_the_path(flow)
        assert {id(p) for p in path} | {id(p) for p in weights} == {
            id(p) for p in flow.parameters()
        }
        assert len(path) + len(weights) == len(list(flow.parameters()))
        inside = {id(p) for p in weights}
        names = {n.rpartition(".")[2] for n, p in flow.named_parameters() if id(p) not in inside}
        assert names == {"bias", "log_scale", "lower", "upper", "log_gain", "mean"}
        assert all(
            id(p) in inside
            for n, p in flow.named_parameters()
            if "network" in n and "last" not in n
        )


class TestRun:
    def test_checkpoints_and_the_end(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures, replace(SHORT, steps=7, checkpoint_every=3))
        seen: list[int] = []
        trainer.run(lambda trainer: seen.append(trainer.step))
        assert seen == [3, 6, 7]

    def test_goes_on_from_its_step(self, pictures: Tensor) -> None:
        trainer = new_trainer(pictures, replace(SHORT, steps=4, checkpoint_every=4))
        losses(trainer, 3)
        seen: list[int] = []
        trainer.run(lambda trainer: seen.append(trainer.step))
        assert seen == [4]


def test_bits_per_dim_repeats_with_its_seed(flow: Flow, pictures: Tensor) -> None:
    first = bits_per_dim(flow, pictures, batch=20)
    assert first.shape == (len(pictures),)
    assert not first.requires_grad
    assert torch.equal(first, bits_per_dim(flow, pictures, batch=20))
    assert not torch.equal(first, bits_per_dim(flow, pictures, batch=20, seed=1))
    torch.testing.assert_close(first, bits_per_dim(flow, pictures), rtol=0.05, atol=0)


def test_save_samples(flow: Flow, tmp_path: Path) -> None:
    save_samples(flow, tmp_path / "samples.png")
    sheet = np.array(Image.open(tmp_path / "samples.png"))
    assert sheet.shape == (64, 64, 3)
    first = torch.from_numpy(sheet[:8, 8:16]).permute(2, 0, 1)
    assert torch.equal(first, flow.sample(64, temperature=0.7)[1])


class TestCommand:
    """python -m model train, as one types it, and then without another process."""

    @staticmethod
    def options(data: Path, out: Path, *more: str) -> list[str]:
        return [
            *("train", "--preset", "glow32", "--batch", "2", "--out", str(out)),
            *("--data", str(data / "train"), "--validation", str(data / "val"), *more),
        ]

    @pytest.fixture
    def faces(self, tmp_path: Path, write_pictures: Callable[..., list[Path]]) -> Path:
        write_pictures(tmp_path / "faces" / "train", 4)
        write_pictures(tmp_path / "faces" / "val", 2)
        return tmp_path / "faces"

    def test_trains_and_resumes(self, tmp_path: Path, faces: Path) -> None:
        out = tmp_path / "toy.safetensors"
        first = subprocess.run(
            [sys.executable, "-m", "model", *self.options(faces, out, "--steps", "1")],
            cwd=Path(model.__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert first.returncode == 0, first.stderr
        assert "resuming" not in first.stdout
        assert "step 1: validation bits/dim" in first.stdout + first.stderr
        bundle = Bundle.load(out)
        assert bundle.flow.config == PRESETS["glow32"]
        assert bundle.card["training"]["step"] == 1
        assert 0 < bundle.card["bits_per_dim"] < 20
        assert Image.open(out.with_suffix(".000001.png")).size == (8 * 32, 8 * 32)

        options = self.options(faces, out, "--steps", "2")
        second = CliRunner().invoke(app, options, catch_exceptions=False)
        assert f"resuming {out.with_suffix('.ckpt')} at step 1" in second.output
        resumed = Bundle.load(out)
        assert resumed.card["training"]["step"] == 2
        assert not torch.equal(resumed.flow.prior.mean, bundle.flow.prior.mean)

    def test_another_preset_cannot_resume_it(
        self, tmp_path: Path, faces: Path, pictures: Tensor
    ) -> None:
        out = tmp_path / "toy.safetensors"
        new_trainer(pictures).save(out.with_suffix(".ckpt"))
        result = CliRunner().invoke(app, self.options(faces, out, "--steps", "1"))
        assert result.exit_code == 2
        assert "resolution 8, not 32" in unframed(result.output)

    def test_begins_from_a_bundle(self, tmp_path: Path, faces: Path) -> None:
        torch.manual_seed(0)
        shallower = replace(PRESETS["glow32"], steps=(2, 4, 6))
        flow = Flow(shallower)
        start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
        Bundle("start", flow).save(start)
        options = self.options(faces, out, "--start", str(start))
        CliRunner().invoke(app, [*options, "--steps", "1"], catch_exceptions=False)
        bundle = Bundle.load(out)
        assert bundle.flow.config == PRESETS["glow32"]
        assert bundle.card["training"]["settle"] == 0
        learned = bundle.flow.state_dict()
        distances = [(learned[n] - t).abs().max() for n, t in flow.state_dict().items()]
        assert 0 < max(distances) < 0.01

        result = CliRunner().invoke(app, [*options, "--steps", "2"], catch_exceptions=False)
        assert "resuming" in result.output

    def test_tames_along_the_directions_it_began_with(self, tmp_path: Path, faces: Path) -> None:
        torch.manual_seed(0)
        flow = Flow(PRESETS["glow32"])
        start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
        options = self.options(faces, out, "--start", str(start), "--tame", "--steps", "1")
        Bundle("start", flow).save(start)
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 2
        assert "--tame needs a bundle with directions" in result.output

        vector = torch.randn(flow.config.dimensions)
        direction = Direction("smiling", "Smile", "Expression", vector, 1, 1, 0.0, 1.0, -1.0, 1.0)
        Bundle("start", flow, [direction]).save(start)
        CliRunner().invoke(app, options, catch_exceptions=False)
        assert Bundle.load(out).card["training"]["tame"] is True

    def test_goes_a_share_of_the_way_from_where_it_began(self, tmp_path: Path, faces: Path) -> None:
        torch.manual_seed(0)
        start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
        flow = Flow(PRESETS["glow32"])
        Bundle("start", flow).save(start)
        options = self.options(faces, out, "--steps", "3", "--blend", "0.25")
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 2
        assert "--blend needs a bundle to --start from" in result.output
        CliRunner().invoke(app, [*options, "--start", str(start)], catch_exceptions=False)
        bundle = Bundle.load(out)
        assert bundle.card["training"]["blend"] == 0.25
        state = torch.load(out.with_suffix(".ckpt"), weights_only=True)["average"]
        moved = 0
        for name, weight in bundle.flow.state_dict().items():
            before, learned = flow.state_dict()[name].double(), state[f"module.{name}"].double()
            moved += int(not torch.equal(before, learned))
            torch.testing.assert_close(
                weight.double(), 0.75 * before + 0.25 * learned, atol=1e-6, rtol=1e-5
            )
        assert moved > 100

    def test_leaves_the_rest_of_what_it_tames_still(self, tmp_path: Path, faces: Path) -> None:
        torch.manual_seed(0)
        flow = Flow(PRESETS["glow32"])
        start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
        vector = torch.randn(flow.config.dimensions) / 10  # bursts nothing
        direction = Direction("smiling", "Smile", "Expression", vector, 1, 1, 0.0, 1.0, -1.0, 1.0)
        Bundle("start", flow, [direction]).save(start)
        options = self.options(faces, out, "--start", str(start), "--steps", "3")
        for still, words in (
            (["--still", "1"], "--still is a part of --tame"),
            (["--tame", "--still", "-1"], "-1 is no number of 0 or more"),
            (["--tame", "--still", "1,hat=0"], "hat is none of the attributes"),
        ):
            result = CliRunner().invoke(app, [*options, *still])
            assert result.exit_code == 2
            assert words in result.output
        learned = []
        for still in (["--still", "0.5,smiling=1"], []):
            out.with_suffix(".ckpt").unlink(missing_ok=True)
            CliRunner().invoke(app, [*options, "--tame", *still], catch_exceptions=False)
            learned.append(Bundle.load(out))
        assert [each.card["training"]["still"] for each in learned] == ["0.5,smiling=1", ""]
        weights = [torch.cat([p.flatten() for p in each.flow.parameters()]) for each in learned]
        assert not torch.equal(*weights)

    @pytest.mark.parametrize(
        ("name", "config", "words"),
        [
            ("start", replace(PRESETS["glow32"], bits=5), "not in bits"),
            ("start", replace(PRESETS["glow32"], steps=(8, 8, 10)), "grows by pairs of steps"),
            ("missing", None, "missing.safetensors cannot be read"),
        ],
    )
    def test_cannot_begin_from_any_bundle(
        self, tmp_path: Path, faces: Path, name: str, config: FlowConfig | None, words: str
    ) -> None:
        start = tmp_path / f"{name}.safetensors"
        if config:
            Bundle("start", Flow(config)).save(start)
        options = self.options(faces, tmp_path / "out.safetensors", "--start", str(start))
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 2
        # without spaces, for a long path is broken anywhere
        assert words.replace(" ", "") in unframed(result.output).replace(" ", "")

    def test_learns_from_images_with_enough_of_a_column(self, tmp_path: Path, faces: Path) -> None:
        names = sorted(path.name for path in (faces / "train").iterdir())
        labels = tmp_path / "labels.csv"
        sizes = [*range(128, 128 + len(names) - 2), 127.9, ""]
        rows = [f"{name},{size}\n" for name, size in zip(names, sizes, strict=True)]
        labels.write_text("file,native_px\n" + "".join(rows))
        out = tmp_path / "out.safetensors"
        options = self.options(faces, out, "--steps", "1", "--labels", str(labels))
        CliRunner().invoke(app, [*options, "--least", "native_px=128"], catch_exceptions=False)
        assert Bundle.load(out).card["training"]["images"] == len(names) - 2

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--least", "native_px=128"], "--least needs --labels"),
            (["--least", "size=128", "--labels"], "no column of numbers size; it has native_px"),
            (["--least", "native_px", "--labels"], "could not convert"),
            (["--least", "native_px=999", "--labels"], "no readable image"),
        ],
    )
    def test_too_much_to_ask_says_so(
        self, tmp_path: Path, faces: Path, options: list[str], words: str
    ) -> None:
        labels = tmp_path / "labels.csv"
        labels.write_text("file,native_px\na.png,200\n")
        files = [str(labels)] if "--labels" in options else []
        command = self.options(faces, tmp_path / "out.safetensors", *options, *files)
        result = CliRunner().invoke(app, command)
        assert result.exit_code
        said = unframed(f"{result.output} {result.exception}")
        assert words.replace(" ", "") in said.replace(" ", "")

    def test_makes_the_folder_of_its_bundle(self, tmp_path: Path, faces: Path) -> None:
        """At the start: hours later, at the first checkpoint, would be a bad time to fail."""
        out = tmp_path / "runs" / "first" / "toy.safetensors"
        options = self.options(faces, out, "--steps", "0")
        CliRunner().invoke(app, options, catch_exceptions=False)
        assert out.parent.is_dir()

    def test_an_unknown_preset_names_the_known(self, tmp_path: Path) -> None:
        options = [*self.options(tmp_path, tmp_path / "a"), "--preset", "glow7"]
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 2
        assert "glow7" in result.output
        assert "glow64" in result.output


TRAIN = ["-m", "model", "train", "--preset", "glow32", "--batch", "8", "--checkpoint-every", "2"]


def train_command(faces: Path, out: Path, steps: int, *more: str) -> list[str]:
    paths = ["--data", str(faces), "--validation", str(faces), "--out", str(out)]
    return [*TRAIN, *paths, "--steps", str(steps), *more]


@pytest.fixture
def faces(tmp_path: Path, write_pictures: Callable[..., list[Path]]) -> Path:
    write_pictures(tmp_path / "faces", 12)
    return tmp_path / "faces"


def weights_of(bundle: Path) -> dict[str, Tensor]:
    return Bundle.load(bundle).flow.state_dict()


class TestProcesses:
    def test_killed_in_mid_epoch_it_resumes_to_the_same_bits(
        self, faces: Path, tmp_path: Path
    ) -> None:
        """kill -9 once the first checkpoint is there, then the same command again."""
        whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = partial(subprocess.run, check=True, env=environment, capture_output=True)
        run([sys.executable, *train_command(faces, whole, 5)])
        command = [sys.executable, *train_command(faces, parts, 5)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            while not parts.exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert torch.load(parts.with_suffix(".ckpt"), weights_only=True)["step"] < 5
        run(command)
        expected = weights_of(whole)
        assert all(torch.equal(expected[name], w) for name, w in weights_of(parts).items())

    @pytest.mark.parametrize("begun", [False, True])
    def test_two_processes_learn_what_one_does(
        self, faces: Path, tmp_path: Path, begun: bool
    ) -> None:
        alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = partial(subprocess.run, check=True, env=environment)
        more = ["--reversible", "--accumulate", "2"]
        if begun:
            torch.manual_seed(0)
            Bundle("start", Flow(PRESETS["glow32"])).save(tmp_path / "start.safetensors")
            more += ["--start", str(tmp_path / "start.safetensors")]
        run([sys.executable, *train_command(faces, alone, 3, *more)])
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        flag, *command = train_command(faces, together, 3, *more)
        run([*torchrun, flag, "--", *command])  # else torchrun takes --start for its own
        expected = weights_of(alone)
        for name, weight in weights_of(together).items():
            # bfloat16 networks and the order of sums; Adam's first steps magnify either
            torch.testing.assert_close(weight, expected[name], rtol=0.05, atol=0.01)


class TestChoices:
    @pytest.mark.parametrize(
        ("name", "kind"), [("adamax", torch.optim.Adamax), ("soap", pytorch_optimizer.SOAP)]
    )
    def test_other_optimizers_learn(
        self, pictures: Tensor, name: Literal["adamax", "soap"], kind: type[Optimizer]
    ) -> None:
        trainer = new_trainer(pictures, replace(SHORT, optimizer=name, steps=12))
        first = trainer.train_step()["bits_per_dim"]
        for _ in range(11):
            last = trainer.train_step()["bits_per_dim"]
        assert isinstance(trainer.optimizer, kind)
        assert last < first

    def test_soap_is_resumed_exactly(self, pictures: Tensor, tmp_path: Path) -> None:
        config = replace(SHORT, optimizer="soap", steps=24)
        whole = new_trainer(pictures, config)
        losses(whole, 13)  # its eigenbases turn every ten
        whole.save(tmp_path / "state.ckpt")
        expected = losses(whole, 11)
        resumed = new_trainer(pictures, config, weights=1)
        resumed.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
        assert losses(resumed, 11) == expected

    @pytest.mark.parametrize("accumulate", [2, 4])
    def test_parts_of_a_batch_add_up_to_it(self, pictures: Tensor, accumulate: int) -> None:
        whole = new_trainer(pictures, SHORT)
        parts = new_trainer(pictures, replace(SHORT, accumulate=accumulate))
        whole.precision = parts.precision = torch.float32
        for _ in range(2):
            expected, found = whole.train_step(), parts.train_step()
            assert found["bits_per_dim"] == pytest.approx(expected["bits_per_dim"], abs=1e-4)
            assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)

    def test_a_batch_that_cannot_be_parted_is_an_error(self, pictures: Tensor) -> None:
        with pytest.raises(ValueError, match="8 cannot be shared by 1 processes in 3 parts"):
            new_trainer(pictures, replace(SHORT, accumulate=3))

    def test_reversible_learns_the_same(self, pictures: Tensor) -> None:
        runs = []
        for reversible in (False, True):
            trainer = new_trainer(pictures, replace(SHORT, reversible=reversible))
            trainer.precision = torch.float32
            runs.append([trainer.train_step()["bits_per_dim"] for _ in range(8)])
        assert runs[1] == pytest.approx(runs[0], abs=1e-3)

    @pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
    def test_compiled_learns_the_same(self, pictures: Tensor) -> None:
        images = torch.nn.functional.avg_pool2d(pictures.float(), 2).to(torch.uint8)
        config = FlowConfig(resolution=images.shape[-1], steps=(1,), hidden=(4,))
        runs = []
        for compile in (False, True):
            torch.manual_seed(0)
            trainer = Trainer(Flow(config), images, replace(SHORT, compile=compile))
            trainer.precision = torch.float32
            trainer.initialize()
            runs.append([trainer.train_step()["bits_per_dim"] for _ in range(3)])
        assert runs[1] == pytest.approx(runs[0], abs=1e-3)


class TestTaming:
    """Faces moved along directions learn to stay on their scale."""

    @pytest.fixture
    def taming(self) -> Taming:
        generator = torch.Generator().manual_seed(0)
        directions = 8 * torch.randn(3, 3 * 8 * 8, generator=generator) / math.sqrt(3 * 8 * 8)
        return Taming(directions, torch.zeros(3))

    def test_bursts_less(self, pictures: Tensor, taming: Taming) -> None:
        start = new_trainer(pictures, replace(SHORT, steps=20))
        losses(start, 20)
        config = replace(SHORT, steps=60, learning_rate=2e-3)
        plain, tamed = (
            Trainer(copy.deepcopy(start.flow), pictures, config, taming=how)
            for how in (None, taming)
        )
        strayed = []
        for trainer in (plain, tamed):
            losses(trainer, 60)
            flow = trainer.flow
            latents = flow.flatten(flow.encode(pictures)).float()
            moved = [latents + strength * d for d in taming.directions for strength in (-1, 1)]
            with torch.no_grad():
                strayed.append(burst_loss(flow.inverse(flow.unflatten(torch.cat(moved)))).mean())
        assert strayed[1] < 0.8 * strayed[0]
        bits = [bits_per_dim(trainer.flow, pictures).mean() for trainer in (plain, tamed)]
        assert bits[1] < bits[0] + 0.3

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_draws_what_it_was_taught_and_leaves_the_rest_still(
        self, pictures: Tensor, taming: Taming, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        monkeypatch.setattr(model.tame, "STRAY_WEIGHT", 0.2)
        start = new_trainer(pictures, replace(SHORT, steps=20))
        losses(start, 20)
        teacher = copy.deepcopy(start.flow).requires_grad_(False)
        still = torch.full((3,), share)
        alone = replace(taming, directions=taming.directions / 4, still=still)
        config = replace(SHORT, batch=16, steps=80)
        flows = []
        for how in (alone, replace(alone, teacher=teacher)):
            trainer = Trainer(copy.deepcopy(start.flow), pictures, config, taming=how)
            losses(trainer, 80)
            flows.append(trainer.flow)

        @torch.no_grad()
        def strayed(flow: Flow) -> Tensor:
            y = teacher.dequantize(pictures, torch.tensor(0.5))
            found = []
            for step in alone.directions:
                moved, asked = (
                    each.inverse(each.unflatten(each.flatten(each(y)[0]) + step))
                    for each in (flow, teacher)
                )
                found.append(stray(moved, y, asked, torch.full((len(y),), share)))
            return torch.stack(found).mean()

        untaught, taught = map(strayed, flows)
        assert taught < 0.7 * untaught
        bits = [bits_per_dim(flow, pictures).mean() for flow in (teacher, flows[1])]
        assert bits[1] < bits[0] + 0.3

    def test_holds_noise_near(
        self, pictures: Tensor, taming: Taming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model.tame, "BURST_WEIGHT", 2.0)
        start = new_trainer(pictures, replace(SHORT, steps=20))
        losses(start, 20)
        config = replace(SHORT, steps=60, learning_rate=5e-3)
        noise = black_and_white((16, 3, 8, 8), 256, torch.Generator().manual_seed(0))
        strayed = []
        for far in (math.inf, 2.0):  # so small a flow has little farther out
            monkeypatch.setattr(model.tame, "FAR", far)
            trainer = Trainer(copy.deepcopy(start.flow), pictures, config, taming=taming)
            losses(trainer, 60)
            latents = trainer.flow.flatten(trainer.flow.encode(noise))
            strayed.append(latents.abs().sub(2).clamp(min=0).sum(1).log1p().mean().item())
        assert strayed[1] < strayed[0] - 0.2

    def test_mixes_each_image_with_another(
        self, pictures: Tensor, taming: Taming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[Tensor, ...]] = []

        def loss(_taming: Taming, _flow: Flow, *arguments: Tensor) -> Tensor:
            seen.append(arguments)
            return arguments[0].new_zeros(())

        monkeypatch.setattr(Taming, "loss", loss)
        trainer = new_trainer(pictures)
        trainer.taming = taming
        trainer.train_step()
        ((y, *_, others),) = seen
        assert len(y) == len(others) == SHORT.batch // MOVED
        batch = trainer.batch(0)
        for mine, other in zip(
            *(trainer.flow.quantize(each + 0.5) for each in (y, others)), strict=True
        ):
            assert not torch.equal(mine, other)
            assert (batch == mine).flatten(1).all(1).any()
            assert (batch == other).flatten(1).all(1).any()

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("tamed", [False, True])
    def test_recorded_it_learns_the_same(
        self, pictures: Tensor, taming: Taming, tamed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []
        for recorded in (True, False):
            monkeypatch.setattr(Trainer, "_records", recorded)
            flow = new_trainer(pictures).flow.cuda()
            teacher = copy.deepcopy(flow).requires_grad_(False)
            moved = Taming(taming.directions.cuda() / 4, torch.ones(3).cuda(), teacher)
            trainer = Trainer(flow, pictures, SHORT, taming=moved if tamed else None)
            found.append([value for _ in range(8) for value in trainer.train_step().values()])
        assert found[0] == pytest.approx(found[1], rel=0.02)

    @pytest.mark.parametrize("taught", [False, True])
    def test_in_parts_it_learns_the_same(
        self, pictures: Tensor, taming: Taming, taught: bool
    ) -> None:
        if taught:
            teacher = new_trainer(pictures).flow.requires_grad_(False)
            taming = replace(taming, directions=taming.directions / 4, teacher=teacher)
        runs = []
        for accumulate in (1, 8):  # of eight parts four move nothing
            config = replace(SHORT, batch=16, accumulate=accumulate)
            trainer = new_trainer(pictures, config)
            trainer.precision, trainer.taming = torch.float32, taming
            losses(trainer, 3)
            runs.append(trainer.flow.prior.mean.detach())
        torch.testing.assert_close(*runs, rtol=1e-3, atol=1e-5)

    def test_stops_and_goes_on(self, pictures: Tensor, taming: Taming, tmp_path: Path) -> None:
        whole, first, second = (new_trainer(pictures) for _ in range(3))
        for trainer in (whole, first, second):
            trainer.taming = taming
        losses(whole, 4)
        losses(first, 2)
        first.save(tmp_path / "state")
        second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        losses(second, 2)
        assert_same_state(whole, second)


class TestJitter:
    def test_moves_each_picture_a_little_and_in_its_own_way(self) -> None:
        images = smooth_squares(6)
        moved = jittered(images, torch.Generator().manual_seed(0))
        assert moved.shape == images.shape
        assert moved.dtype == torch.uint8
        changes = (moved.float() - images.float()).abs().mean(dim=(1, 2, 3))
        assert (changes > 0.5).all()
        assert (changes < 40).all()
        assert len({change.item() for change in changes}) == 6
        assert torch.equal(moved, jittered(images, torch.Generator().manual_seed(0)))

    def test_a_sharp_picture_stays_sharp(self) -> None:
        noise = torch.rand(16, 3, 66, 66, generator=torch.Generator().manual_seed(0)) * 255
        images = F.avg_pool2d(noise, 3, 1).to(torch.uint8)
        moved = jittered(images, torch.Generator().manual_seed(0))
        assert moved.float().diff().abs().mean() > 0.9 * images.float().diff().abs().mean()

    def test_an_even_picture_stays_even(self) -> None:
        """No border comes in: only its brightness changes."""
        grey = torch.full((8, 3, 16, 16), 100, dtype=torch.uint8)
        moved = jittered(grey, torch.Generator().manual_seed(1))
        assert (moved.flatten(1).amax(1) - moved.flatten(1).amin(1) == 0).all()
        assert 89 < moved.min() < moved.max() < 111

    def test_is_off_unless_asked(self, pictures: Tensor) -> None:
        plain, jittering = new_trainer(pictures), new_trainer(pictures, replace(SHORT, jitter=True))
        known = {image.numpy().tobytes() for image in torch.cat([pictures, pictures.flip(-1)])}
        assert all(image.numpy().tobytes() in known for image in plain.batch(0))
        assert not any(image.numpy().tobytes() in known for image in jittering.batch(0))


def smooth_squares(count: int) -> Tensor:
    image = torch.zeros(3, 16, 16)
    image[:, 4:12, 4:12] = 200
    return image.to(torch.uint8).expand(count, 3, 16, 16).clone()


def test_tensorboard_files_hold_every_step(faces: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = tmp_path / "logs"
    arguments = train_command(faces, tmp_path / "a.safetensors", 3, "--tensorboard", str(logs))
    result = CliRunner().invoke(app, arguments[2:])
    assert result.exit_code == 0, result.output
    events = EventAccumulator(str(logs)).Reload()
    assert [event.step for event in events.Scalars("bits_per_dim")] == [1, 2, 3]
    assert [event.step for event in events.Scalars("validation_bits_per_dim")] == [2, 3]
