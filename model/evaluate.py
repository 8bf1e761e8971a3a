"""What a bundle is worth, measured on validation images, as lines and as one HTML file."""

import base64
import html
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from model.attributes import BURST, Labels, Readings, signs
from model.bundle import Bundle, Direction
from model.data import grid
from model.flow import Flow
from model.probe import Probe, judge

BATCH = 32
TEMPERATURES = (0.5, 0.7, 0.9, 1.0)
BORDER = 1 / 32  # of the crop's side
CHEEKS = ((0.27, 0.55), (0.73, 0.55))  # middles of squares a tenth of the crop's side


@dataclass(frozen=True)
class Edited:
    """What one attribute at one strength does to faces, by the probe and by the pixels."""

    attribute: str
    strength: float
    before: float  # share that the probe says has what the strength asks for
    after: float
    others: float  # mean movement of the other attributes over this one's, each in deviations
    border: float  # mean movement of the border, grey levels
    cheeks: float  # mean movement of the cheeks' luminance, grey levels
    unequal: float  # the same for the darker half of the faces less that for the lighter half
    bursts: float  # share of faces with a value outside [-BURST, 1 + BURST]


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


def edit(flow: Flow, probe: Probe, direction: Direction, strength: float, images: Tensor) -> Edited:
    """Move faces by a strength and see what changed."""
    latents = _latents(flow, images)
    start = images.to(latents.device).float().add(0.5) / flow.bins
    moved = _pictures(flow, latents + strength * direction.vector.to(latents.device))
    before, after = judge(probe, start), judge(probe, moved)
    asked = math.copysign(1.0, strength)
    own = probe.attributes.index(direction.name)
    deviations = before.std(dim=0).clamp(min=1e-6)
    movement = ((after - before).mean(dim=0) / deviations).abs()
    others = torch.cat([movement[:own], movement[own + 1 :]])
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
        others=(others.mean() / movement[own].clamp(min=1e-6)).item(),
        border=_border(change),
        cheeks=cheeks.mean().item(),
        unequal=(cheeks[dark].mean() - cheeks[light].mean()).item(),
        bursts=outside.float().mean().item(),
    )


def edits(
    bundle: Bundle, probe: Probe, names: list[str], images: Tensor, labels: Labels, faces: int = 128
) -> Iterator[Edited]:
    """Every direction at +1 on faces without the attribute, and at -1 on faces with it."""
    sign = signs(labels, names, [direction.name for direction in bundle.directions])
    for column, direction in zip(sign.T, bundle.directions, strict=True):
        for strength in (1.0, -1.0):
            fitting = images[column == -strength][:faces]
            if len(fitting) > 1:
                yield edit(bundle.flow, probe, direction, strength, fitting)


@torch.inference_mode()
def reconstruction(flow: Flow, images: Tensor) -> tuple[float, int]:
    """The largest distance of a decoded value from the middle of its bin, in bins (a picture comes
    back exactly below 0.5), and the number of images that do not."""
    pictures = _pictures(flow, _latents(flow, images))
    images = images.to(pictures.device)
    distance = (pictures * flow.bins - 0.5 - images).abs().flatten(1).amax(1)
    wrong = (flow.quantize(pictures) != images).flatten(1).any(1)
    return distance.max().item(), int(wrong.sum())


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


def _picture(image: Image.Image, scale: int = 2) -> str:
    out = io.BytesIO()
    size = (image.width * scale, image.height * scale)
    image.resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="">'


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
    readings: Readings | None,
    found: list[Edited],
    images: Tensor,
) -> str:
    """The evaluation as one HTML page with its pictures inside."""
    flow, directions = bundle.flow, bundle.directions
    samples = "".join(
        f"<h3>Temperature {t}</h3>{_picture(grid(flow.sample(32, t).cpu(), 8))}"
        for t in TEMPERATURES
    )
    strips = "".join(
        f"<h3>{html.escape(d.label)}, {d.min:+.2f} to {d.max:+.2f}</h3>"
        f"{_picture(strip(flow, d, images[:5]))}"
        for d in directions
    )
    angles = cosines(directions).tolist() if directions else []
    names = [d.name for d in directions]
    body = [
        f"<h1>{html.escape(bundle.name)}</h1>",
        _table(["figure", "value"], [[k, v] for k, v in figures.items()]),
        "<h2>Edits</h2>",
        _table(list(Edited.__annotations__), [_cells(edited) for edited in found]),
        "<h2>Directions</h2>",
        _table(
            ["attribute", "with", "without", "std", "AUC"],
            [
                [d.name, d.positives, d.negatives, f"{d.std:.3f}"]
                + ([f"{readings.auc(i):.3f}"] if readings else [])
                for i, d in enumerate(directions)
            ],
        ),
        "<h2>Cosines</h2>",
        _table(
            ["", *names],
            [[name, *(f"{c:+.2f}" for c in row)] for name, row in zip(names, angles, strict=True)],
        ),
        f"<h2>Samples</h2>{samples}<h2>Strips</h2>{strips}",
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(bundle.name)}'
        f"</title><style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )


def _cells(edited: Edited) -> list[Any]:
    return [value if isinstance(value, str) else f"{value:.3f}" for value in vars(edited).values()]
