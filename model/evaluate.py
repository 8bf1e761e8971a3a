"""What a bundle is worth, measured on validation images, as lines and as one HTML file."""

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from model.attributes import BATCH, Readings, all_edited, bursts, flat_latents
from model.bundle import Bundle, Direction
from model.data import Labels, black_and_white, grid, spread
from model.probe import Probe, judge, judge_images
from model.runtime import Frozen, fastest
from model.skin import border, cheeks

TEMPERATURES = (0.5, 0.7, 0.9, 1.0)
LEAN = 0.8  # share of the flow's slope: all of it is too much, for log p bends down within a bin
STRANGE = 32  # pictures of noise
GROUPS = ("older", "child", "masculine")  # columns whose two sides are compared


GROUP_HEAD = ["group", "images", "bits/dim", "edits that succeed"]


@dataclass(frozen=True)
class Edited:
    """What one attribute at one strength does to faces, by the probe and by the pixels.

    Movements are of the probe's logits, in their deviations over all the validation faces; grey
    levels run from 0 to 255.
    """

    attribute: str
    strength: float
    before: float  # share that the probe says has what the strength asks for
    after: float
    moved: float  # mean movement of this attribute, towards what the strength asks for
    others: float  # size of the mean movement of the others, over this one's
    border: float  # mean movement of the border, grey levels
    cheeks: float  # mean movement of the cheeks' luminance, grey levels
    unequal: float  # the same for the darker half of the faces less that for the lighter half
    shortened: float  # share of faces whose step was, lest they burst
    bursts: float  # share of faces that burst all the same

    def cells(self) -> list[str]:
        return [v if isinstance(v, str) else f"{v:.3f}" for v in vars(self).values()]


def edit(
    flow: Frozen,
    probe: Probe,
    direction: Direction,
    strength: float,
    images: Tensor,
    latents: Tensor,
    deviations: Tensor,
) -> tuple[Edited, Tensor]:
    """Move faces by a strength and see what changed, logits in their `deviations` (attributes,);
    and which of the faces have what the strength asks for then, (faces,). `latents` are those of
    the images, flat."""
    start = images.to(latents.device).float().add(0.5) / flow.bins
    moved, share = all_edited(flow, latents, strength * direction.vector)
    before, after = judge(probe, start), judge(probe, moved)
    asked = math.copysign(1.0, strength)
    own = probe.attributes.index(direction.name)
    movement = (after - before).mean(dim=0) / deviations.clamp(min=1e-6)
    others = torch.cat([movement[:own], movement[own + 1 :]]).abs()
    at_border = (moved.clamp(0, 1) - start)[:, :, border(moved.shape[-1])]
    lighter = cheeks(moved) - cheeks(start)
    order = cheeks(start).argsort()
    dark, light = order[: len(images) // 2], order[len(images) // 2 :]
    succeeded = after[:, own] * asked > 0
    figures = Edited(
        direction.name,
        strength,
        before=(before[:, own] * asked > 0).float().mean().item(),
        after=succeeded.float().mean().item(),
        moved=movement[own].item() * asked,
        others=(others.sum() / max(1, len(others)) / movement[own].abs().clamp(min=1e-6)).item(),
        border=255 * at_border.abs().mean().item(),
        cheeks=lighter.mean().item(),
        unequal=(lighter[dark].mean() - lighter[light].mean()).item(),
        shortened=(share < 1).float().mean().item(),
        bursts=bursts(moved).float().mean().item(),
    )
    return figures, succeeded


def strengths(direction: Direction) -> list[float]:
    """The strengths that edits are judged at: one, and the slider's end, each way."""
    up, down = (
        sorted({s for s in (1.0,) if s < end} | {end}) for end in (direction.max, -direction.min)
    )
    return [-s for s in reversed(down)] + up


def edits(
    bundle: Bundle, probe: Probe, names: list[str], images: Tensor, labels: Labels, faces: int = 128
) -> Iterator[tuple[Edited, Tensor, Tensor]]:
    """Every direction upwards on faces without the attribute, and downwards on faces with it: what
    it does, which of the images it was tried on, and on which of those it succeeded."""
    sign = labels.signs(names, [direction.name for direction in bundle.directions])
    flow = fastest(bundle.flow)
    latents = flat_latents(flow, images)
    deviations = judge_images(probe, images.to(flow.device)).std(dim=0)
    for column, direction in zip(sign.T, bundle.directions, strict=True):
        for strength in strengths(direction):
            tried = torch.nonzero(column == -math.copysign(1.0, strength))[:, 0]
            if len(tried) > 1:
                tried = tried[spread(len(tried), faces)]
                found, succeeded = edit(
                    flow, probe, direction, strength, images[tried], latents[tried], deviations
                )
                yield found, tried, succeeded.cpu()


def by_group(
    names: list[str], labels: Labels, bits: Tensor, tries: Tensor, successes: Tensor
) -> list[list[str]]:
    """A row for each side of each of GROUPS that the labels have: its images, their bits/dim, and
    the share of all edits on them that succeeded. All tensors are (images,)."""
    rows = []
    for column in (name for name in GROUPS if name in labels.columns):
        sign = labels.signs(names, [column])[:, 0]
        for side, group in ((1, column), (-1, f"not {column}")):
            here = sign == side
            done = successes[here].sum() / tries[here].sum()
            count = int(here.sum())
            rows.append([group, str(count), f"{bits[here].mean():.3f}", f"{done:.3f}"])
    return rows


@torch.inference_mode()
def reconstruction(flow: Frozen, images: Tensor) -> tuple[float, int]:
    """The largest distance of a decoded value from the middle of its bin, in bins (a picture comes
    back exactly below 0.5), and the number of images that do not."""
    largest, wrong = 0.0, 0
    for batch in images.split(BATCH):
        batch = batch.to(flow.device)
        pictures = flow.decode(flow.encode(batch))
        distance = (pictures * flow.bins - 0.5 - batch).abs().max().item()
        largest = distance if math.isnan(distance) else max(largest, distance)
        wrong += int((flow.quantize(pictures) != batch).flatten(1).any(1).sum())
    return largest, wrong


def noise(flow: Frozen) -> Tensor:
    """Pictures that a flow is farthest from knowing, (STRANGE, C, H, W): exactly it has to give
    these back too, and one that was tamed for too long may not."""
    config, generator = flow.config, torch.Generator().manual_seed(0)
    shape = (STRANGE, config.channels, config.resolution, config.resolution)
    return black_and_white(shape, flow.bins, generator)


def cosines(directions: list[Direction]) -> Tensor:
    """Cosine of the angle between each two directions."""
    vectors = torch.stack([direction.vector for direction in directions]).double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    product: Tensor = vectors @ vectors.T
    return product


def strip(flow: Frozen, direction: Direction, images: Tensor, steps: int = 7) -> Image.Image:
    """A row a face, from the least strength to the greatest, 0 in the middle."""
    down = torch.linspace(direction.min, 0, steps // 2 + 1)
    up = torch.linspace(0, direction.max, steps // 2 + 1)
    strengths = torch.cat([down, up[1:]])
    latents = flat_latents(flow, images)
    moves = strengths.to(latents.device)[:, None] * direction.vector.to(latents.device)
    each = latents.repeat_interleave(len(moves), 0)
    pictures, _ = all_edited(flow, each, moves.repeat(len(latents), 1))
    pictures = flow.quantize(pictures)
    return grid(pictures.cpu(), columns=len(strengths))


def _picture(image: Image.Image, what: str, scale: int = 2) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{image.width * scale}" height="{image.height * scale}"'
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(what)}" {size}>'


def _table(head: list[str], rows: list[list[Any]]) -> str:
    def row(cells: list[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


STYLE = """body{font:15px/1.5 system-ui;margin:2em auto;max-width:75em;padding:0 1em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}
td:first-child,th:first-child{text-align:left}"""


def report(
    bundle: Bundle,
    figures: dict[str, str],
    faces: Tensor,
    readings: Readings | None = None,
    probed: Readings | None = None,
    found: Sequence[Edited] = (),
    groups: Sequence[list[str]] = (),
) -> str:
    """The evaluation as one HTML page with its pictures inside: samples at each temperature and a
    strip of `faces` (uint8) an attribute; AUCs of the directions' readings and of the probe's
    logits, the edits, and what `by_group` gives, where there were labels to judge them by."""
    flow, program, directions = bundle.flow, fastest(bundle.flow), bundle.directions
    names = [direction.name for direction in directions]
    body = [
        f"<h1>{html.escape(bundle.name)}</h1>",
        _table(["figure", "value"], [[name, value] for name, value in figures.items()]),
    ]
    if directions:
        judged = {"AUC": readings, "AUC of the probe": probed}
        aucs = {name: by.auc for name, by in judged.items() if by}
        body += [
            "<h2>Directions</h2>",
            _table(
                ["attribute", "with", "without", "std", "min", "max", *aucs],
                [
                    [d.name, d.positives, d.negatives]
                    + [f"{value:.3f}" for value in (d.std, d.min, d.max)]
                    + [f"{auc(i):.3f}" for auc in aucs.values()]
                    for i, d in enumerate(directions)
                ],
            ),
            "<h2>Cosines</h2>",
            _table(
                ["", *names],
                [
                    [name, *(f"{cosine:+.2f}" for cosine in row)]
                    for name, row in zip(names, cosines(directions).tolist(), strict=True)
                ],
            ),
        ]
    if found:
        body += [
            "<h2>Edits</h2>",
            _table(list(Edited.__annotations__), [edited.cells() for edited in found]),
        ]
    if groups:
        body += ["<h2>Groups</h2>", _table(GROUP_HEAD, [*groups])]
    body.append("<h2>Samples</h2>")
    for temperature in TEMPERATURES:
        sheet = grid(flow.sample(32, temperature).cpu(), 8)
        what = f"Temperature {temperature}"
        body.append(f"<h3>{what}</h3>{_picture(sheet, what)}")
    if directions:
        body.append("<h2>Strips</h2>")
    for d in directions:
        what = f"{d.label}, {d.min:+.2f} to {d.max:+.2f}"
        body.append(f"<h3>{html.escape(what)}</h3>{_picture(strip(program, d, faces), what)}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(bundle.name)}'
        f"</title><style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )
