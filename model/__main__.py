"""python -m model: train a flow and find its attribute directions."""

import copy
import json
import logging
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from tqdm import tqdm

from model import evaluate as evaluation
from model.attributes import (
    BATCH,
    Readings,
    attributes_of,
    confined,
    directions_of,
    flat_latents,
    held_still,
    led,
    mean_difference,
    ranged,
    read,
    spanning,
    sum_up,
)
from model.bundle import Bundle, BundleError, Direction
from model.config import PRESETS, FlowConfig
from model.data import (
    Images,
    Labels,
    Split,
    check_rows,
    class_names,
    classes_of,
    find_labels,
    read_labels,
    spread,
    write_pack,
)
from model.factors import fitted as fit_prior
from model.flow import Flow, Latent
from model.grow import grown, with_factors, without_factors
from model.probe import judge_images
from model.probe import train as train_probe
from model.runtime import Frozen, fastest, keep_freed_memory
from model.still import MOST_NUMBERS, balanced, light_moved, respond, stilled
from model.tame import Taming
from model.train import (
    OPTIMIZERS,
    Log,
    OptimizerName,
    TrainConfig,
    Trainer,
    between,
    bits_per_dim,
    process_group,
    save_samples,
    summary,
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
DEFAULTS = TrainConfig()
STILL_FACES = 2048  # training faces on which it is seen what moves with a step
LIGHT_FACES = 64  # of them with an attribute, and without, whose skin's light is to stay
PRIOR_FACES = 2**14  # training faces whose latents, and mirrored ones', the prior is fitted to
RANGE_FACES = 64  # validation faces on which the sliders' ends are measured
PROBE_IMAGES = 20_000  # training images that the probe learns from
LABELS_HELP = (
    "CSV with a column 'file'; without it CelebA's attributes, or the subfolders as classes."
)


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
    labels_path: Annotated[
        Path | None, typer.Option("--labels", help="CSV with a column 'file', for --least.")
    ] = None,
    least: Annotated[
        str,
        typer.Option(
            help="Learn only from images with so much in a column of the labels, or more: "
            "native_px=128.",
        ),
    ] = "",
    ycond: Annotated[
        bool, typer.Option(help="A prior for each class of images; a class is a subfolder.")
    ] = False,
    crop_jpeg: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="JPEG quality in which the images came at the flow's size, if they did: "
            "the service makes its crops alike.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to begin from: as deep as the preset or less by pairs of steps, as wide "
            "or less, or of half its resolution, without its first level."
        ),
    ] = None,
    tame: Annotated[
        bool,
        typer.Option(
            help="Hold faces moved along the directions of --start on their scale: without --still "
            "for some hundred steps at most, at a quarter of the rate."
        ),
    ] = False,
    still: Annotated[
        str,
        typer.Option(
            help="With --tame: how still, from 0 to 1, the border of the picture and the light and "
            "colours of the skin are to stay, while the face moves, and mixes are, as with "
            "--start; for some attributes another number: 1,turned_right=0.2. One above 1 is how "
            "many times as often as others an attribute moves the face."
        ),
    ] = "",
    blend: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How far the weights that are written lie from those of --start to those that "
            "were learned: 0.5 is halfway.",
        ),
    ] = 1,
    seed: int = DEFAULTS.seed,
    checkpoint_every: int = DEFAULTS.checkpoint_every,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard (the extra of that name).")
    ] = None,
) -> None:
    """Train a flow; run again with the same --out, it resumes at its last checkpoint. With
    `torchrun --nproc_per_node N -m -- model train …`, N processes share every batch."""
    for value, known in ((preset, PRESETS), (optimizer, OPTIMIZERS)):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
    device, resolution = _device(), PRESETS[preset].resolution
    settings = TrainConfig(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        optimizer=cast(OptimizerName, optimizer),
        accumulate=accumulate,
        reversible=reversible,
        jitter=jitter,
        compile=compile,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    with process_group(device), summary(tensorboard) as log:
        train_images, held_out = (
            Images.find(data_path, resolution, split, validation) for split in get_args(Split)
        )
        if least:
            enough = _reaching(least, labels_path)
            train_images, held_out = train_images.among(enough), held_out.among(enough)
        _train(
            preset,
            settings,
            train_images,
            held_out,
            ycond,
            crop_jpeg,
            start,
            tame,
            still,
            blend,
            out,
            device,
            log,
        )


def _reaching(least: str, labels_path: Path | None) -> set[str]:
    """The names of the images that `least`, column=number, leaves."""
    column, _, number = least.partition("=")
    if not labels_path:
        raise typer.BadParameter("--least needs --labels")
    try:
        return read_labels(labels_path).reaching(column, float(number))
    except ValueError as error:
        raise typer.BadParameter(f"--least {least}: {error}") from error


def _train(
    preset: str,
    settings: TrainConfig,
    train_images: Images,
    validation_images: Images,
    ycond: bool,
    crop_jpeg: int | None,
    start: Path | None,
    tame: bool,
    still: str,
    blend: float,
    out: Path,
    device: torch.device,
    log: Log,
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    names, images = next(train_images.batches(sys.maxsize))
    held_out_names, held_out = next(validation_images.batches(sys.maxsize))
    config, classes, labels, held_out_labels = PRESETS[preset], class_names(names), None, None
    if ycond:
        if not classes:
            raise typer.BadParameter("--ycond needs the images of each class in a subfolder")
        config = replace(config, classes=len(classes))
        labels, held_out_labels = classes_of(names, classes), classes_of(held_out_names, classes)
    torch.manual_seed(settings.seed)
    begun = _begun(start, config, device) if start else None
    flow = begun.flow if begun else Flow(config)
    if begun and not begun.grew:
        settings = replace(settings, settle=0)
    taming = _taming(begun, still) if tame else None
    if still and not tame:
        raise typer.BadParameter("--still is a part of --tame")
    if blend < 1 and not begun:
        raise typer.BadParameter("--blend needs a bundle to --start from")
    trainer = Trainer(flow.to(device), images, settings, labels, taming)
    state = out.with_suffix(".ckpt")
    if state.exists():
        try:
            trainer.load_state_dict(torch.load(state, map_location=device, weights_only=True))
        except ValueError as error:
            raise typer.BadParameter(f"{state} cannot be resumed: {error}") from error
        print(f"resuming {state} at step {trainer.step}")
    elif not start:
        trainer.initialize()

    def checkpoint(trainer: Trainer) -> None:
        trainer.save(state)
        last = trainer.step == settings.steps
        judged = slice(None if last else 320)
        of = None if held_out_labels is None else held_out_labels[judged]
        flow = between(begun.origin, trainer.averaged, blend) if begun else trainer.averaged
        value = bits_per_dim(flow, held_out[judged], of).mean().item()
        tqdm.write(f"step {trainer.step}: validation bits/dim {value:.4f}")
        log(trainer.step, {"validation_bits_per_dim": value})
        about: dict[str, Any] = {
            "bits_per_dim": round(value, 4),
            "training": {
                "preset": preset,
                "images": len(images),
                "minutes": round(trainer.seconds / 60, 1),
                "tame": tame,
                "still": still,
                "blend": blend,
                "step": trainer.step,
                **asdict(settings),
            },
        }
        if ycond:
            about["classes"] = classes
        Bundle(out.stem, flow, card=about, crop_jpeg=crop_jpeg).save(out)
        save_samples(flow, out.with_suffix(f".{trainer.step:06d}.png"))

    trainer.run(checkpoint, log)


class _Begun(NamedTuple):
    """A flow to go on with."""

    flow: Flow
    origin: Flow  # as it began, frozen
    grew: bool  # by a level, whose scales are still to be found
    directions: list[Direction]  # those of the bundle it began as


def _taming(begun: _Begun | None, still: str) -> Taming:
    if not begun or not begun.directions:
        raise typer.BadParameter("--tame needs a bundle with directions to --start from")
    origin = begun.origin
    vectors = torch.stack([direction.vector for direction in begun.directions])
    vectors = F.pad(vectors, (origin.config.dimensions - vectors.shape[1], 0)).to(origin.device)
    shares = _numbers("--still", still, [each.name for each in begun.directions], 0)
    teacher = origin if any(shares) else None
    return Taming(vectors, torch.tensor(shares, device=origin.device), teacher)


def _begun(start: Path, config: FlowConfig, device: torch.device) -> _Begun:
    try:
        bundle = Bundle.load(start)
        flow = grown(bundle.flow, config).to(device).train().requires_grad_()
    except (BundleError, ValueError) as error:
        raise typer.BadParameter(f"training cannot begin from {start}: {error}") from error
    origin = copy.deepcopy(flow).requires_grad_(False)
    return _Begun(flow, origin, flow.config.levels > bundle.flow.config.levels, bundle.directions)


@app.command()
def pack(
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    out: Annotated[Path, typer.Option(help="The tar pack to write.")],
    resolution: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 64,
    split: Annotated[str, typer.Option(help="train or val.")] = "train",
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
) -> None:
    """Make a tar pack of a split of the images, cut and resized, under their own names."""
    if split not in get_args(Split):
        raise typer.BadParameter(f"no split {split!r}; there are {', '.join(get_args(Split))}")
    images = Images.find(data_path, resolution, cast(Split, split), validation)
    print(f"wrote {write_pack(images, out)} images to {out}")


def _labels(path: Path | None, data_path: Path, *splits: Images) -> Labels | None:
    """The labels of all images of the splits, from a table or as the images bring them."""
    names = [name for images in splits for name in images.names()]
    labels = read_labels(path) if path else find_labels(data_path, names)
    if labels:
        check_rows(names, labels.rows, path or data_path)
    return labels


def _list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@app.command()
def directions(
    bundle_path: Annotated[
        Path, typer.Option("--bundle", help="The model; directions go into it.")
    ],
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    labels_path: Annotated[Path | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16: half the size.")] = False,
    attributes: Annotated[str, typer.Option(help="Columns to find directions for, by comma.")] = "",
    stratify: Annotated[
        str, typer.Option(help="Columns to hold still: the mean difference within their strata.")
    ] = "",
    hold: Annotated[
        str, typer.Option(help="Columns to hold still, graded ones too: by regression on them.")
    ] = "",
    still: Annotated[
        str,
        typer.Option(
            help="How much more the border of the picture and the light of the skin are to count "
            "than the face, so that they stay still; for some attributes another number: "
            "16,turned_right=4."
        ),
    ] = "",
    levels: Annotated[
        int, typer.Option(min=0, help="How many of the last levels' parts they move; 0 is all.")
    ] = 0,
    clear: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Make the unit lead between the means of this share of the validation images of "
            "either kind, those that read clearest; 0 is between the means of the training images.",
        ),
    ] = 0,
    orthogonal: Annotated[
        bool, typer.Option(help="Set the directions at right angles to one another.")
    ] = False,
    along: Annotated[
        Path | None,
        typer.Option(
            help="Bundle, as the --start of train --still, whose directions' vectors are taken in "
            "place of those found, while readings are found anew: training held the flow along "
            "these, and moves less beside the face by them."
        ),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(
            help="With --along: how many times as long the vectors are to be, for all or some "
            "attributes: 1.1,turned_right=1.2."
        ),
    ] = "",
) -> None:
    """Find attribute directions, judge them on the validation images, and write them down.

    A direction is a difference of mean latents; with --clear its length is that between faces that
    clearly have the attribute and clearly lack it, and with --still it is what does the same to the
    face and little else; with --along it is another bundle's. A graded column counts as had in the
    upper third of its values, and as not in the lower third.
    """
    if stratify and hold:
        raise typer.BadParameter("--stratify and --hold hold attributes still in two ways")
    if lengths and not along:
        raise typer.BadParameter("--lengths is a part of --along")
    if along and (still or orthogonal):
        raise typer.BadParameter("--still and --orthogonal turn directions, --along takes others")
    bundle = Bundle.load(bundle_path, _device())
    flow = fastest(bundle.flow)
    keep_freed_memory()
    train = Images.find(data_path, flow.config.resolution, "train", validation)
    held_out = Images.find(data_path, flow.config.resolution, "val", validation)
    labels = _labels(labels_path, data_path, train, held_out)
    if not labels or not labels.columns:
        raise typer.BadParameter(
            "the images have no labels: give --labels, or put each in a folder of its class"
        )
    chosen = attributes_of(labels, _list(attributes))
    names = [attribute.name for attribute in chosen]
    times, longer = _numbers("--still", still, names, 0), _numbers("--lengths", lengths, names, 1)
    held = _along(along, flow.config, names, longer) if along else []
    if levels > flow.config.levels:
        raise typer.BadParameter(f"the flow has {flow.config.levels} levels, not {levels}")
    numbers = sum(math.prod(shape) for shape in flow.config.part_shapes[-levels:])
    if any(times) and orthogonal:
        raise typer.BadParameter("--still turns directions, which are not --orthogonal then")
    if any(times) and numbers > MOST_NUMBERS:
        raise typer.BadParameter(
            f"--still is for directions of {MOST_NUMBERS} numbers or fewer, not {numbers}: "
            "see --levels"
        )
    batches = tqdm(train.batches(BATCH), "means", unit="batch")
    sums = sum_up(flow, batches, labels, chosen, _list(stratify), _list(hold))
    means = held_still(sums) if hold else mean_difference(sums)
    if levels:
        means = confined(means, flow.config, levels)
    found = directions_of(sums, means, orthogonal)
    readings = read(flow, found, tqdm(held_out.batches(BATCH), "readings", unit="batch"), labels)
    _, faces = _spread(held_out, RANGE_FACES)
    latents = flat_latents(flow, faces)
    deviations = readings.values.std(dim=0).tolist()
    found = [replace(d, std=std) for d, std in zip(found, deviations, strict=True)]
    if clear:
        found = [spanning(d, *readings.clear(i, clear)) for i, d in enumerate(found)]
    if any(times):
        seen_names, seen = _spread(train, STILL_FACES)
        signs = labels.signs(seen_names, names)
        found = _stilled(bundle.flow, flow, found, times, numbers, seen, signs)
    if along:
        found = [led(d, vector) for d, vector in zip(found, held, strict=True)]
    bundle.directions = [ranged(flow, direction, latents) for direction in tqdm(found, "ranges")]
    bundle.card["directions"] = {
        "levels": levels or flow.config.levels,
        "clear": clear,
        "stratified_by": sums.stratify,
        "held": sums.hold,
        "still": still,
        "orthogonal": orthogonal,
        "along": along and along.stem,
        "lengths": lengths,
    }
    bundle.save(out or bundle_path, half)
    print(f"{'attribute':15} {'with':>6} {'without':>8} {'AUC':>6} {'std':>6}  range")
    for i, d in enumerate(bundle.directions):
        print(
            f"{d.name:15} {d.positives:6} {d.negatives:8} {readings.auc(i):6.3f} {d.std:6.3f}"
            f"  {d.min:+.2f} to {d.max:+.2f}"
        )
    print("cosines between them, in hundredths")
    for i, row in enumerate(evaluation.cosines(bundle.directions).tolist()):
        cells = "".join(f"{round(100 * cosine):4d}" for cosine in row[: i + 1])
        print(f"{bundle.directions[i].name:15} {cells}")


def _from_all_over(images: Images, count: int) -> Images:
    """So many of the images, from all over their order, which sorts them by source."""
    names = images.names()
    return images.among({names[place] for place in spread(len(names), count)})


def _spread(images: Images, count: int) -> tuple[list[str], Tensor]:
    """The names of so many of the images, from all over their order, and these."""
    return next(_from_all_over(images, count).batches(sys.maxsize))


@app.command()
def prior(
    bundle_path: Annotated[
        Path, typer.Option("--bundle", help="The model; the prior goes into it.")
    ],
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16: half the size.")] = False,
    levels: Annotated[
        int, typer.Option(min=0, help="How many of the last levels' parts it is of; 0 is all.")
    ] = 0,
    factors: Annotated[int, typer.Option(min=1, help="The most factors that it may have.")] = 256,
) -> None:
    """Fit the prior to the latents of the training images, once all training is done: what varies
    together in them then does so in samples. Latents, and what they decode to, stay what they are.
    """
    bundle = Bundle.load(bundle_path, _device())
    flow = without_factors(bundle.flow)
    levels = levels or flow.config.levels
    try:
        numbers = replace(flow.config, factors=1, factor_levels=levels).factor_dimensions
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    program = fastest(flow)
    keep_freed_memory()
    train = Images.find(data_path, flow.config.resolution, "train", validation)
    held_out = Images.find(data_path, flow.config.resolution, "val", validation)
    chosen = _from_all_over(train, PRIOR_FACES)
    generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def forward(images: Tensor) -> tuple[Latent, Tensor]:
        noise = torch.rand(images.shape, generator=generator)
        return program(flow.dequantize(images, noise).to(flow.device))

    latents = torch.empty(2 * len(chosen.names()), numbers, device=flow.device)
    count = 0
    for _, images in tqdm(chosen.batches(BATCH), "latents", unit="batch"):
        for each in (images, images.flip(-1)):
            latent, _ = forward(each)
            latents[count : count + len(each)] = flow.flatten(latent[-levels:])
            count += len(each)
    try:
        fitted = fit_prior(latents[:count], factors)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    bundle.flow = with_factors(flow, fitted, levels)
    common = fitted.requires_grad_(False).to(flow.device).density(torch.float64)
    before: list[Tensor] = []
    after: list[Tensor] = []
    for _, images in tqdm(held_out.batches(BATCH), "validation", unit="batch"):
        latent, log_det = forward(images)
        before.append(flow.bits_per_dim(flow.log_density_of(latent, log_det)))
        after.append(flow.bits_per_dim(bundle.flow.log_density_of(latent, log_det, common)))
    was, now = torch.cat(before).mean().item(), torch.cat(after).mean().item()
    kept = bundle.flow.config.factors
    bundle.card["prior"] = {"levels": levels, "factors": kept, "latents": count}
    bundle.card["bits_per_dim"] = round(now, 4)
    bundle.save(out or bundle_path, half)
    save_samples(bundle.flow, (out or bundle_path).with_suffix(".png"))
    print(f"{kept} factors: validation bits/dim {was:.4f} to {now:.4f}")


def _numbers(option: str, text: str, names: list[str], every: float) -> list[float]:
    """The number of an option for each attribute: NUMBER, or NAME=NUMBER for one."""
    own = {}
    for item in _list(text):
        name, is_own, number = map(str.strip, item.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise typer.BadParameter(f"{option} {item}: {number} is no number of 0 or more")
        if is_own and name not in names:
            raise typer.BadParameter(f"{option} {item}: {name} is none of the attributes")
        if is_own:
            own[name] = value
        else:
            every = value
    return [own.get(name, every) for name in names]


def _stilled(
    flow: Flow,
    program: Frozen,
    directions: list[Direction],
    times: list[float],
    numbers: int,
    faces: Tensor,
    signs: Tensor,
) -> list[Direction]:
    """The directions with vectors that leave the rest of the picture still, which counts so many
    `times` as much as the face for each. Readings stay along what they were taken along. `signs`,
    (faces, directions), say which of the faces have what; `program` is the flow, made fast."""
    vectors = torch.stack([direction.vector for direction in directions])
    response = respond(flow, faces, vectors, numbers)
    found = []
    for direction, weight, sign in zip(tqdm(directions, "still"), times, signs.T, strict=True):
        if weight:
            vector = direction.vector.double()
            still = stilled(vector[-numbers:], response, weight)
            step = torch.cat([vector[:-numbers], still])
            lacking, having = (
                some[spread(len(some), LIGHT_FACES)]
                for some in (faces[sign == kind] for kind in (-1, 1))
            )
            if len(lacking) and len(having):
                up, down = light_moved(program, lacking, step), light_moved(program, having, -step)
                still = balanced(still, response, weight, (up - down) / 2)
            direction = led(direction, torch.cat([vector[:-numbers], still]))
        found.append(direction)
    return found


def _along(path: Path, config: FlowConfig, names: list[str], lengths: list[float]) -> list[Tensor]:
    """The vectors of directions in another bundle of such a flow, so many times as long."""
    if not all(lengths):
        raise typer.BadParameter("--lengths: a direction of no length is none")
    try:
        held = Bundle.load(path)
    except BundleError as error:
        raise typer.BadParameter(f"--along: {error}") from error
    if held.flow.config.part_shapes != config.part_shapes:
        raise typer.BadParameter(f"--along: the latents of {path} have other parts")
    vectors = {direction.name: direction.vector for direction in held.directions}
    if lacking := [name for name in names if name not in vectors]:
        raise typer.BadParameter(f"--along: {path} has no direction {', '.join(lacking)}")
    return [length * vectors[name] for name, length in zip(names, lengths, strict=True)]


@app.command()
def evaluate(
    bundle_path: Annotated[Path, typer.Option("--bundle", help="The model.")],
    data_path: Annotated[Path, typer.Option("--data", help="As in train.")],
    labels_path: Annotated[Path | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    validation: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    faces: Annotated[
        str, typer.Option(help="Pictures to edit in strips, by comma; else the first five.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The report, one HTML file.")] = Path("report.html"),
) -> None:
    """Measure a bundle on the validation images: likelihood, reconstruction, and, where it has
    directions, edits, by an independent probe."""
    bundle = Bundle.load(bundle_path, _device())
    flow, program, resolution = bundle.flow, fastest(bundle.flow), bundle.resolution
    keep_freed_memory()
    shown = Images(tuple(map(Path, _list(faces))), resolution).load() if faces else None
    columns = [direction.name for direction in bundle.directions]
    train = Images.find(data_path, resolution, "train", validation)
    held_out = Images.find(data_path, resolution, "val", validation)
    labels = _labels(labels_path, data_path, train, held_out)
    names, images = next(held_out.batches(sys.maxsize))
    bits = bits_per_dim(flow, images)
    leaning = bits_per_dim(flow, images, lean=evaluation.LEAN)
    _, seen = _spread(train, len(images))
    error, wrong = evaluation.reconstruction(program, images)
    _, strange = evaluation.reconstruction(program, evaluation.noise(program))
    figures = {
        "bits/dim": f"{bits.mean():.4f} ± {bits.std() / len(bits) ** 0.5:.4f} (standard error)",
        "bits/dim under noise that leans as the flow does": f"{leaning.mean():.4f}",
        "images": str(len(images)),
        "bits/dim on as many training images": f"{bits_per_dim(flow, seen).mean():.4f}",
        "largest reconstruction error": f"{error:.4f} of a bin (exact below 0.5)",
        "images not reconstructed exactly": str(wrong),
        "pictures of noise not reconstructed exactly": f"{strange} of {evaluation.STRANGE}",
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    readings, probed, found, groups = None, None, [], []
    if labels and columns and (labels_path or set(columns) <= set(labels.columns)):
        readings = read(program, bundle.directions, held_out.batches(BATCH), labels)
        learned_names, learned = next(train.batches(PROBE_IMAGES))
        signs = labels.signs(learned_names, columns)
        probe = train_probe(columns, learned.to(_device()), signs)
        probed = Readings(judge_images(probe, images.to(_device())).cpu(), readings.signs)
        print(*evaluation.Edited.__annotations__)
        tries, successes = torch.zeros(2, len(images))
        for edited, tried, succeeded in evaluation.edits(bundle, probe, names, images, labels):
            found.append(edited)
            tries[tried] += 1
            successes[tried] += succeeded
            print(*edited.cells(), flush=True)
        groups = evaluation.by_group(names, labels, bits, tries, successes)
        for row in (evaluation.GROUP_HEAD, *groups):
            print(*row, sep="  ")
    shown = images[:5] if shown is None else shown
    out.write_text(evaluation.report(bundle, figures, shown, readings, probed, found, groups))
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
