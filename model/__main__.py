"""python -m model: train a flow and find its attribute directions."""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from model import data
from model.bundle import Bundle
from model.config import PRESETS
from model.flow import Flow
from model.train import TrainConfig, Trainer, bits_per_dim, save_samples

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
DEFAULTS = TrainConfig()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@app.command()
def train(
    data_path: Annotated[Path, typer.Option("--data", help="Folder of images, tar pack, or folder of packs.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "glow64",
    steps: int = DEFAULTS.steps,
    batch: int = DEFAULTS.batch,
    learning_rate: float = DEFAULTS.learning_rate,
    seed: int = DEFAULTS.seed,
    checkpoint_every: int = DEFAULTS.checkpoint_every,
) -> None:
    """Train a flow; run again with the same --out, it resumes at its last checkpoint."""
    config = PRESETS[preset]
    images = data.load(data.find_packs(data_path, config.resolution, "train"), config.resolution)[1]
    held_out = data.load(
        data.find_packs(validation or data_path, config.resolution, "val"), config.resolution
    )[1]
    torch.manual_seed(seed)
    trainer = Trainer(
        Flow(config).to(_device(), memory_format=torch.channels_last),
        images,
        TrainConfig(steps, batch, learning_rate, seed=seed, checkpoint_every=checkpoint_every),
    )
    state = out.with_suffix(".ckpt")
    if state.exists():
        trainer.load_state_dict(torch.load(state, map_location=_device(), weights_only=True))
        print(f"resuming {state} at step {trainer.step}")
    else:
        trainer.initialize()

    def checkpoint(trainer: Trainer) -> None:
        trainer.save(state)
        value = bits_per_dim(trainer.averaged, held_out[:320]).mean().item()
        tqdm.write(f"step {trainer.step}: validation bits/dim {value:.4f}")
        Bundle(out.stem, trainer.averaged).save(out)
        save_samples(trainer.averaged, out.with_suffix(f".{trainer.step:06d}.png"))

    trainer.run(checkpoint)


@app.command()
def directions() -> None:
    """Find attribute directions."""


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    app()
