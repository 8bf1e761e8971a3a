"""Attribute directions: the difference of the mean latents of the images that have an attribute
and those that do not (Glow, section 6, "semantic manipulation")."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.bundle import Direction
from model.flow import Flow


@dataclass(frozen=True)
class Attribute:
    """A binary column of a label table: 1 has it, -1 has it not, empty is left out."""

    name: str
    label: str
    group: str


ATTRIBUTES = (
    Attribute("smiling", "Smile", "Expression"),
    Attribute("mouth_open", "Open mouth", "Expression"),
    Attribute("eyes_open", "Open eyes", "Expression"),
    Attribute("raised_brows", "Raised brows", "Expression"),
    Attribute("older", "Age", "Look"),
    Attribute("masculine", "Masculine", "Look"),
    Attribute("full_lips", "Full lips", "Look"),
    Attribute("wide_face", "Wide face", "Look"),
    Attribute("beard", "Beard", "Look"),
    Attribute("mustache", "Mustache", "Look"),
    Attribute("turned_right", "Turn right", "Pose"),
    Attribute("looking_down", "Look down", "Pose"),
    Attribute("bright_light", "Bright light", "Light"),
    Attribute("warm_light", "Warm light", "Light"),
    Attribute("eyeglasses", "Eyeglasses", "Accessories"),
    Attribute("sunglasses", "Sunglasses", "Accessories"),
    Attribute("head_cover", "Hat or scarf", "Accessories"),
)

Labels = Mapping[str, Mapping[str, str]]  # file, column, value
Batches = Iterable[tuple[list[str], Tensor]]  # names, uint8 images


def attributes_of(labels: Labels) -> list[Attribute]:
    """The attributes that a label table has columns for; where it has none of the known ones,
    every column whose values are all 1, -1, 0 or empty."""
    columns = {column for row in labels.values() for column in row}
    known = [attribute for attribute in ATTRIBUTES if attribute.name in columns]
    if known:
        return known
    return [
        Attribute(column, column.replace("_", " ").capitalize(), "Attributes")
        for column in sorted(columns)
        if {row[column] for row in labels.values()} <= {"1", "-1", "0", ""}
    ]


def signs(labels: Labels, names: list[str], columns: list[str]) -> Tensor:
    """1, -1 or 0 (left out) of each image in each column, (images, columns), float64.

    Raises ValueError naming the images that the table has no row for.
    """
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(
            f"{len(missing)} images have no row in the label table: {', '.join(missing[:5])}"
        )
    value = {"1": 1.0, "-1": -1.0}
    return torch.tensor(
        [[value.get(labels[name].get(column, ""), 0.0) for column in columns] for name in names],
        dtype=torch.float64,
    )


@torch.inference_mode()
def mean_differences(
    flow: Flow, batches: Batches, labels: Labels, attributes: list[Attribute]
) -> list[Direction]:
    """One direction per attribute, from one pass over the images: two sums per attribute are all
    that is kept, in float64.

    Raises ValueError for an attribute that no image has, or none lacks.
    """
    device = next(flow.parameters()).device
    sums = torch.zeros(2, len(attributes), flow.config.dimensions, dtype=torch.float64)
    counts = torch.zeros(2, len(attributes), dtype=torch.float64)
    columns = [attribute.name for attribute in attributes]
    for names, images in batches:
        sign = signs(labels, names, columns)
        latent = flow.flatten(flow.encode(images.to(device))).double().cpu()
        for i, wanted in enumerate((1.0, -1.0)):
            has = (sign == wanted).double()
            sums[i] += has.T @ latent
            counts[i] += has.sum(0)
    for attribute, (positive, negative) in zip(attributes, counts.T.tolist(), strict=True):
        if not positive or not negative:
            raise ValueError(
                f"{attribute.name} has {positive:.0f} positive and {negative:.0f} negative images; "
                "a direction needs some of each"
            )
    positive, negative = sums / counts[:, :, None]
    vectors = positive - negative
    origins = ((positive + negative) / 2 * vectors).sum(1) / vectors.square().sum(1)
    return [
        Direction(
            **vars(attribute),
            vector=vectors[i].float(),
            positives=int(counts[0, i]),
            negatives=int(counts[1, i]),
            origin=origins[i].item(),
            std=0.0,
            min=-1.0,
            max=1.0,
        )
        for i, attribute in enumerate(attributes)
    ]


@dataclass(frozen=True)
class Readings:
    """Readings of validation images: (images, attributes), with their signs."""

    values: Tensor
    signs: Tensor

    def auc(self, attribute: int) -> float:
        """Chance that an image with the attribute reads higher than one without it."""
        sign = self.signs[:, attribute]
        column, sign = self.values[sign != 0, attribute], sign[sign != 0]
        ranks = torch.empty_like(column)
        ranks[column.argsort()] = torch.arange(1, len(column) + 1, dtype=column.dtype)
        positives = int((sign == 1).sum())
        negatives = len(column) - positives
        if not positives or not negatives:
            return float("nan")
        above = ranks[sign == 1].sum().item() - positives * (positives + 1) / 2
        return above / (positives * negatives)  # Mann-Whitney's U as a share


@torch.inference_mode()
def read(flow: Flow, directions: list[Direction], batches: Batches, labels: Labels) -> Readings:
    """Where each image lies on each attribute's slider."""
    device = next(flow.parameters()).device
    vectors = torch.stack([d.vector for d in directions]).double()
    vectors = vectors / vectors.square().sum(1, keepdim=True)
    origins = torch.tensor([d.origin for d in directions], dtype=torch.float64)
    values, sign = [], []
    for names, images in batches:
        latent = flow.flatten(flow.encode(images.to(device))).double().cpu()
        values.append(latent @ vectors.T - origins)
        sign.append(signs(labels, names, [d.name for d in directions]))
    return Readings(torch.cat(values), torch.cat(sign))


BURST = 0.2  # how far a decoded value may leave the 0 to 1 scale before the picture breaks
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@torch.inference_mode()
def ranged(flow: Flow, direction: Direction, latents: Tensor, share: float = 0.98) -> Direction:
    """The direction with `min` and `max` at the greatest strengths of STRENGTHS, each way, at
    which decoded values of `share` of the faces stay within [-BURST, 1 + BURST]; at least the
    first. `latents` are flat, (faces, dimensions)."""
    vector = direction.vector.to(latents.device)

    def holds(strength: float) -> bool:
        pictures = torch.cat(
            [
                flow.decode(flow.unflatten(chunk + strength * vector)).flatten(1)
                for chunk in latents.split(64)
            ]
        )
        inside = (pictures.amin(1) >= -BURST) & (pictures.amax(1) <= 1 + BURST)
        return inside.float().mean().item() >= share

    def reach(sign: int) -> float:
        first_burst = bisect_left(STRENGTHS, True, key=lambda s: not holds(sign * s))
        return sign * STRENGTHS[max(0, first_burst - 1)]

    return replace(direction, min=reach(-1), max=reach(1))
