"""python -m model: train a flow and find its attribute directions."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from model import evaluate as evaluation
from model.attributes import attributes_of, mean_differences, ranged, read, signs
from model.bundle import Bundle
from model.config import PRESETS, FlowConfig
from model.data import Images, Split, read_labels
from model.flow import Flow
from model.probe import train as train_probe
from model.train import (
    OPTIMIZERS,
    Log,
    TrainConfig,
    Trainer,
    bits_per_dim,
    process_group,
    save_samples,
    summary,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
DEFAULTS = TrainConfig()
BATCH = 64  # images encoded at once
RANGE_FACES = 64  # validation faces on which the sliders' ends are measured


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@app.command()
def train(
    data_path: Annotated[
        Path, typer.Option("--data", help="Folder of images, tar pack, or folder of packs.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "glow64",
    steps: int = DEFAULTS.steps,
    batch: Annotated[int, typer.Option(help="Of all processes together.")] = DEFAULTS.batch,
    learning_rate: float = DEFAULTS.learning_rate,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adam",
    accumulate: Annotated[int, typer.Option(help="Parts a batch is worked through in.")] = 1,
    reversible: Annotated[
        bool, typer.Option(help="Rebuild activations in backward: memory constant in depth.")
    ] = False,
    jitter: Annotated[
        bool, typer.Option(help="Turn, shift, scale and brighten the images a little.")
    ] = False,
    compile: Annotated[bool, typer.Option(help="Compile the steps of the flow.")] = False,
    seed: int = DEFAULTS.seed,
    checkpoint_every: int = DEFAULTS.checkpoint_every,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard (the extra of that name).")
    ] = None,
) -> None:
    """Train a flow; run again with the same --out, it resumes at its last checkpoint. With
    `torchrun --nproc_per_node N -m model train …`, N processes share every batch."""
    for value, known in ((preset, PRESETS), (optimizer, OPTIMIZERS)):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
    device = _device()
    settings = TrainConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        optimizer=cast(Literal["adam", "adamax"], optimizer),
        accumulate=accumulate,
        reversible=reversible,
        jitter=jitter,
        compile=compile,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    with process_group(device), summary(tensorboard) as log:
        _train(PRESETS[preset], preset, settings, data_path, validation, out, device, log)


def _train(
    config: FlowConfig,
    preset: str,
    settings: TrainConfig,
    data_path: Path,
    validation: Path | None,
    out: Path,
    device: torch.device,
    log: Log,
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    images = Images.find(data_path, config.resolution, "train", validation).load()
    held_out = Images.find(data_path, config.resolution, "val", validation).load()
    torch.manual_seed(settings.seed)
    trainer = Trainer(Flow(config).to(device), images, settings)
    state = out.with_suffix(".ckpt")
    if state.exists():
        trainer.load_state_dict(torch.load(state, map_location=device, weights_only=True))
        print(f"resuming {state} at step {trainer.step}")
    else:
        trainer.initialize()

    def checkpoint(trainer: Trainer) -> None:
        trainer.save(state)
        last = trainer.step == settings.steps
        value = bits_per_dim(trainer.averaged, held_out if last else held_out[:320]).mean().item()
        tqdm.write(f"step {trainer.step}: validation bits/dim {value:.4f}")
        log(trainer.step, {"validation_bits_per_dim": value})
        about = {
            "bits_per_dim": round(value, 4),
            "training": {
                "preset": preset,
                "images": len(images),
                "minutes": round(trainer.seconds / 60, 1),
                "step": trainer.step,
                **asdict(settings),
            },
        }
        Bundle(out.stem, trainer.averaged, card=about).save(out)
        save_samples(trainer.averaged, out.with_suffix(f".{trainer.step:06d}.png"))

    trainer.run(checkpoint, log)


@app.command()
def directions(
    bundle_path: Annotated[
        Path, typer.Option("--bundle", help="The model; directions go into it.")
    ],
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    labels_path: Annotated[Path, typer.Option("--labels", help="CSV with a column 'file'.")],
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16: half the size.")] = False,
) -> None:
    """Find attribute directions, judge them on the validation images, and write them down."""
    bundle = Bundle.load(bundle_path, _device())
    flow, resolution = bundle.flow, bundle.flow.config.resolution
    labels = read_labels(labels_path)
    attributes = attributes_of(labels)

    def batches(split: Split, what: str) -> Iterator[tuple[list[str], Tensor]]:
        images = Images.find(data_path, resolution, split, validation)
        return iter(tqdm(images.batches(BATCH), what, unit="batch"))

    found = mean_differences(flow, batches("train", "means"), labels, attributes)
    readings = read(flow, found, batches("val", "readings"), labels)
    _, images = next(Images.find(data_path, resolution, "val", validation).batches(RANGE_FACES))
    with torch.inference_mode():
        latents = flow.flatten(flow.encode(images.to(_device())))
    deviations = readings.values.std(dim=0).tolist()
    bundle.directions = [
        ranged(flow, replace(direction, std=std), latents)
        for direction, std in zip(tqdm(found, "ranges"), deviations, strict=True)
    ]
    bundle.save(out or bundle_path, half)
    print(f"{'attribute':15} {'with':>6} {'without':>8} {'AUC':>6} {'std':>6}  range")
    for i, d in enumerate(bundle.directions):
        print(
            f"{d.name:15} {d.positives:6} {d.negatives:8} {readings.auc(i):6.3f} {d.std:6.3f}"
            f"  {d.min:+.2f} to {d.max:+.2f}"
        )


@app.command()
def evaluate(
    bundle_path: Annotated[Path, typer.Option("--bundle", help="The model.")],
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    labels_path: Annotated[Path | None, typer.Option("--labels", help="To judge edits by.")] = None,
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    out: Annotated[Path, typer.Option(help="The report, one HTML file.")] = Path("report.html"),
) -> None:
    """Measure a bundle on the validation images: likelihood, reconstruction, edits."""
    bundle = Bundle.load(bundle_path, _device())
    flow, resolution = bundle.flow, bundle.flow.config.resolution
    held_out = Images.find(data_path, resolution, "val", validation)
    names, images = next(held_out.batches(sys.maxsize))
    bits = bits_per_dim(flow, images)
    error, wrong = evaluation.reconstruction(flow, images)
    figures = {
        "bits/dim": f"{bits.mean():.4f} +- {bits.std() / len(bits) ** 0.5:.4f}",
        "images": str(len(images)),
        "largest reconstruction error": f"{error:.4f} of a bin (exact below 0.5)",
        "images not reconstructed exactly": str(wrong),
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    readings, found = None, []
    if labels_path and bundle.directions:
        labels = read_labels(labels_path)
        readings = read(flow, bundle.directions, held_out.batches(BATCH), labels)
        columns = [direction.name for direction in bundle.directions]
        to_learn = Images.find(data_path, resolution, "train", validation)
        learned_names, learned = next(to_learn.batches(sys.maxsize))
        probe = train_probe(columns, learned.to(_device()), signs(labels, learned_names, columns))
        print(" ".join(evaluation.Edited.__annotations__))
        for edited in evaluation.edits(bundle, probe, names, images, labels):
            found.append(edited)
            print(*(v if isinstance(v, str) else f"{v:.3f}" for v in vars(edited).values()))
    out.write_text(evaluation.report(bundle, figures, readings, found, images))
    print(f"wrote {out}")


@app.command()
def card(
    bundle_path: Annotated[
        Path, typer.Option("--bundle", help="The model; the card goes into it.")
    ],
    text: Annotated[Path, typer.Option(help="JSON object; its entries replace the card's own.")],
    half: Annotated[bool, typer.Option(help="Store float16: half the size.")] = False,
) -> None:
    """Write what a model is, what it was trained on and its terms into its bundle."""
    bundle = Bundle.load(bundle_path)
    bundle.card |= json.loads(text.read_text())
    bundle.save(bundle_path, half)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    app()
