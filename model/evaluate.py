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

from model.attributes import BURST, Readings
from model.bundle import Bundle, Direction
from model.data import Labels, grid
from model.flow import Flow
from model.probe import Probe, judge, judge_images

BATCH = 32
TEMPERATURES = (0.5, 0.7, 0.9, 1.0)
BORDER = 1 / 32  # of the crop's side
CHEEKS = ((0.27, 0.55), (0.73, 0.55))  # middles of squares a tenth of the crop's side


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
    bursts: float  # share of faces with a value outside [-BURST, 1 + BURST]

    def cells(self) -> list[str]:
        return [v if isinstance(v, str) else f"{v:.3f}" for v in vars(self).values()]


@torch.inference_mode()
def _latents(flow: Flow, images: Tensor) -> Tensor:
    device = next(flow.parameters()).device
    return torch.cat([flow.flatten(flow.encode(b.to(device))) for b in images.split(BATCH)])


@torch.inference_mode()
def _pictures(flow: Flow, latents: Tensor) -> Tensor:
    return torch.cat([flow.decode(flow.unflatten(chunk)) for chunk in latents.split(BATCH)])


def _luminance(pictures: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
    return torch.einsum("bchw,c->bhw", pictures.clamp(0, 1), weights) * 255


def _cheeks(pictures: Tensor) -> Tensor:
    """Mean luminance of the cheeks, grey levels, (B,)."""
    side = pictures.shape[-1]
    half = max(1, round(side * 0.05))
    grey = _luminance(pictures)
    squares = []
    for x, y in CHEEKS:
        column, row = round(x * side), round(y * side)
        squares.append(grey[:, row - half : row + half, column - half : column + half])
    return torch.stack(squares).mean(dim=(0, 2, 3))


def _border(change: Tensor) -> float:
    """Mean absolute change of the border, grey levels."""
    width = max(1, round(change.shape[-1] * BORDER))
    inside = torch.zeros(change.shape[-2:], dtype=torch.bool)
    inside[width:-width, width:-width] = True
    return change[:, :, ~inside].abs().mean().item() * 255


def edit(
    flow: Flow,
    probe: Probe,
    direction: Direction,
    strength: float,
    images: Tensor,
    deviations: Tensor,
) -> Edited:
    """Move faces by a strength and see what changed, logits in their `deviations` (attributes,)."""
    latents = _latents(flow, images)
    start = images.to(latents.device).float().add(0.5) / flow.bins
    moved = _pictures(flow, latents + strength * direction.vector.to(latents.device))
    before, after = judge(probe, start), judge(probe, moved)
    asked = math.copysign(1.0, strength)
    own = probe.attributes.index(direction.name)
    movement = (after - before).mean(dim=0) / deviations.clamp(min=1e-6)
    others = torch.cat([movement[:own], movement[own + 1 :]]).abs()
    cheeks = _cheeks(moved) - _cheeks(start)
    dark = _cheeks(start).argsort()[: len(images) // 2]
    light = _cheeks(start).argsort()[len(images) // 2 :]
    change = moved.clamp(0, 1) - start
    outside = (moved.flatten(1).amin(1) < -BURST) | (moved.flatten(1).amax(1) > 1 + BURST)
    return Edited(
        direction.name,
        strength,
        before=(before[:, own] * asked > 0).float().mean().item(),
        after=(after[:, own] * asked > 0).float().mean().item(),
        moved=movement[own].item() * asked,
        others=(others.sum() / max(1, len(others)) / movement[own].abs().clamp(min=1e-6)).item(),
        border=_border(change),
        cheeks=cheeks.mean().item(),
        unequal=(cheeks[dark].mean() - cheeks[light].mean()).item(),
        bursts=outside.float().mean().item(),
    )


def strengths(direction: Direction) -> list[float]:
    """The strengths that edits are judged at: a half, one, and the slider's end, each way."""
    up, down = (
        sorted({s for s in (0.5, 1.0) if s < end} | {end})
        for end in (direction.max, -direction.min)
    )
    return [-s for s in reversed(down)] + up


def edits(
    bundle: Bundle, probe: Probe, names: list[str], images: Tensor, labels: Labels, faces: int = 128
) -> Iterator[Edited]:
    """Every direction upwards on faces without the attribute, and downwards on faces with it."""
    sign = labels.signs(names, [direction.name for direction in bundle.directions])
    device = next(bundle.flow.parameters()).device
    deviations = judge_images(probe, images.to(device)).std(dim=0)
    for column, direction in zip(sign.T, bundle.directions, strict=True):
        for strength in strengths(direction):
            fitting = images[column == -math.copysign(1.0, strength)][:faces]
            if len(fitting) > 1:
                yield edit(bundle.flow, probe, direction, strength, fitting, deviations)


@torch.inference_mode()
def reconstruction(flow: Flow, images: Tensor) -> tuple[float, int]:
    """The largest distance of a decoded value from the middle of its bin, in bins (a picture comes
    back exactly below 0.5), and the number of images that do not."""
    largest, wrong = 0.0, 0
    device = next(flow.parameters()).device
    for batch in images.split(BATCH):
        batch = batch.to(device)
        pictures = flow.decode(flow.encode(batch))
        distance = (pictures * flow.bins - 0.5 - batch).abs().max().item()
        largest = distance if math.isnan(distance) else max(largest, distance)
        wrong += int((flow.quantize(pictures) != batch).flatten(1).any(1).sum())
    return largest, wrong


def cosines(directions: list[Direction]) -> Tensor:
    """Cosine of the angle between each two directions."""
    vectors = torch.stack([direction.vector for direction in directions]).double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    product: Tensor = vectors @ vectors.T
    return product


def strip(flow: Flow, direction: Direction, images: Tensor, steps: int = 7) -> Image.Image:
    """A row a face, from the least strength to the greatest, 0 in the middle."""
    down = torch.linspace(direction.min, 0, steps // 2 + 1)
    up = torch.linspace(0, direction.max, steps // 2 + 1)
    strengths = torch.cat([down, up[1:]])
    latents = _latents(flow, images)
    vector = direction.vector.to(latents.device)
    moved = latents[:, None] + strengths.to(latents.device)[:, None] * vector
    pictures = flow.quantize(_pictures(flow, moved.flatten(0, 1)))
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
) -> str:
    """The evaluation as one HTML page with its pictures inside: samples at each temperature and a
    strip of `faces` (uint8) an attribute; AUCs of the directions' readings and of the probe's
    logits, and the edits, where there were labels to judge them by."""
    flow, directions = bundle.flow, bundle.directions
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
    body.append("<h2>Samples</h2>")
    for temperature in TEMPERATURES:
        sheet = grid(flow.sample(32, temperature).cpu(), 8)
        what = f"Temperature {temperature}"
        body.append(f"<h3>{what}</h3>{_picture(sheet, what)}")
    if directions:
        body.append("<h2>Strips</h2>")
    for d in directions:
        what = f"{d.label}, {d.min:+.2f} to {d.max:+.2f}"
        body.append(f"<h3>{html.escape(what)}</h3>{_picture(strip(flow, d, faces), what)}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(bundle.name)}'
        f"</title><style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )
