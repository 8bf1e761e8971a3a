"""Attribute directions: the difference of the mean latents of the images that have an attribute
and those that do not (Glow, section 6, "semantic manipulation"), plain or with the other attributes
held still."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.bundle import Direction
from model.data import Labels
from model.flow import Flow


@dataclass(frozen=True)
class Attribute:
    """A column of a label table that faces are edited along."""

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

Batches = Iterable[tuple[list[str], Tensor]]  # names, uint8 images


def attributes_of(labels: Labels, chosen: list[str] | None = None) -> list[Attribute]:
    """The chosen columns of a label table as attributes; without a choice, the known ones it has,
    or where it has none of those, every column."""
    known = {attribute.name: attribute for attribute in ATTRIBUTES}
    columns = chosen or [name for name in known if name in labels.columns] or labels.columns
    return [
        known.get(name, Attribute(name, name.replace("_", " ").capitalize(), "Attributes"))
        for name in columns
    ]


@dataclass
class Sums:
    """All that directions need of the data: sums of latents over the images that have each
    attribute and those that have it not, apart for each stratum, in float64. A stratum is one
    combination of signs in the columns `stratify`, so without any there is one.

    Memory is that of two latents an attribute and stratum, however many images there are.
    """

    attributes: list[Attribute]
    stratify: list[str]
    latents: dict[tuple[float, ...], Tensor]  # by stratum, (2, attributes, dimensions)
    counts: dict[tuple[float, ...], Tensor]  # by stratum, (2, attributes)
    products: Tensor  # of signs and signs, (attributes, attributes)
    overlaps: Tensor  # of known and signs, the same
    both: Tensor  # of known and known, the same

    def strata(self, attribute: int) -> tuple[Tensor, Tensor]:
        """Sums of latents (strata, 2, dimensions) and counts (strata, 2) of the strata that hold
        images with the attribute and without. An attribute is no stratum of its own."""
        name = self.attributes[attribute].name
        merged: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
        for stratum in self.counts:
            others = zip(self.stratify, stratum, strict=True)
            merged.setdefault(tuple(v for c, v in others if c != name), []).append(stratum)
        sums, counts = [], []
        for strata in merged.values():
            count = torch.stack([self.counts[s][:, attribute] for s in strata]).sum(0)
            if count.all():
                sums.append(torch.stack([self.latents[s][:, attribute] for s in strata]).sum(0))
                counts.append(count)
        if not counts:
            raise ValueError(
                f"no stratum of {', '.join(self.stratify)} has images with {name} and without"
            )
        return torch.stack(sums), torch.stack(counts)

    @property
    def totals(self) -> Tensor:
        """Images with each attribute and without, (2, attributes)."""
        return torch.stack([*self.counts.values()]).sum(0)


@torch.inference_mode()
def sum_up(
    flow: Flow,
    batches: Batches,
    labels: Labels,
    attributes: list[Attribute],
    stratify: list[str] | None = None,
) -> Sums:
    """The sums of one pass over the images.

    Raises ValueError for an attribute that no image has, or none lacks, and what `Labels.signs`
    does.
    """
    device = next(flow.parameters()).device
    columns, stratify = [attribute.name for attribute in attributes], stratify or []
    square = torch.zeros(len(columns), len(columns), dtype=torch.float64)
    sums = Sums(attributes, stratify, {}, {}, square, square.clone(), square.clone())
    for names, images in batches:
        sign = labels.signs(names, columns)
        known = sign.abs()
        sums.products += sign.T @ sign
        sums.overlaps += known.T @ sign
        sums.both += known.T @ known
        latent = flow.flatten(flow.encode(images.to(device))).double().cpu()
        strata = [tuple(row) for row in labels.signs(names, stratify).tolist()]
        for stratum in set(strata):
            here = torch.tensor([other == stratum for other in strata])
            has = torch.stack([sign[here] == 1, sign[here] == -1]).double()
            if stratum not in sums.counts:
                sums.counts[stratum] = torch.zeros(has.shape[::2], dtype=torch.float64)
                sums.latents[stratum] = latent.new_zeros(*has.shape[::2], latent.shape[1])
            sums.counts[stratum] += has.sum(1)
            sums.latents[stratum] += has.mT @ latent[here]
    for attribute, (positive, negative) in zip(attributes, sums.totals.T.tolist(), strict=True):
        if not positive or not negative:
            raise ValueError(
                f"{attribute.name} has {positive:.0f} positive and {negative:.0f} negative images; "
                "a direction needs some of each"
            )
    return sums


def mean_difference(sums: Sums) -> tuple[Tensor, Tensor]:
    """The mean latents of the images with each attribute and without, (attributes, dimensions).

    Where the sums are stratified, of each stratum apart and then averaged with the weights
    n+ n- / (n+ + n-) of Mantel and Haenszel (1959), so that a stratum with few of either says
    little and what is the same throughout a stratum falls out of the difference.

    Raises ValueError for an attribute without a stratum that has both kinds of image.
    """
    means = []
    for i in range(len(sums.attributes)):
        latents, counts = sums.strata(i)
        weights = counts.prod(1) / counts.sum(1)
        weights = weights / weights.sum()
        means.append(torch.einsum("s,sid->id", weights, latents / counts[:, :, None]))
    positive, negative = torch.stack(means, dim=1)
    return positive, negative


def regression(sums: Sums) -> tuple[Tensor, Tensor]:
    """The least-squares prediction of latents from all labels at once, for an image with each
    attribute and without that is average in all others, (attributes, dimensions).

    The coefficients are (L'L)^-1 L'Z, L the signs centred among the images where they are known,
    and 0 where they are not. For one attribute this is `mean_difference`. Labels that add up to
    one another, as classes do, get the solution of least norm.
    """
    positive, negative = torch.stack([*sums.latents.values()]).sum(0)
    count = sums.both.diagonal()
    centre = sums.overlaps.diagonal() / count
    # products of centred signs, from those of the raw ones
    shift = centre[:, None] * sums.overlaps
    gram = sums.products - shift - shift.T + centre[:, None] * centre * sums.both
    moment = positive - negative - centre[:, None] * (positive + negative)
    coefficients = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ moment
    mean = (positive + negative) / count[:, None]
    return mean + (1 - centre)[:, None] * coefficients, mean - (1 + centre)[:, None] * coefficients


def orthogonal(vectors: Tensor) -> Tensor:
    """The orthogonal directions nearest to the given ones (attributes, dimensions), which take no
    order among them: the symmetric orthogonalisation of the unit vectors (Löwdin 1950). Each keeps
    the length of its given direction along the new one.

    Raises ValueError where a direction is a sum of the others.
    """
    units = vectors / vectors.norm(dim=1, keepdim=True)
    values, basis = torch.linalg.eigh(units @ units.T)
    if values[0] < 1e-6:
        raise ValueError("the directions are not independent; leave out one that others add up to")
    turned: Tensor = basis @ (basis.T / values.sqrt()[:, None]) @ units
    return (vectors * turned).sum(1, keepdim=True) * turned


def directions_of(
    sums: Sums, means: tuple[Tensor, Tensor], orthogonalise: bool = False
) -> list[Direction]:
    """One direction per attribute, from the mean latents without it to those with it, at right
    angles to one another where asked. At the means it reads -0.5 and 0.5."""
    positive, negative = means
    vectors = positive - negative
    if orthogonalise:
        vectors = orthogonal(vectors)
    origins = ((positive + negative) / 2 * vectors).sum(1) / vectors.square().sum(1)
    return [
        Direction(
            **vars(attribute),
            vector=vectors[i].float(),
            positives=int(sums.totals[0, i]),
            negatives=int(sums.totals[1, i]),
            origin=origins[i].item(),
            std=0.0,
            min=-1.0,
            max=1.0,
        )
        for i, attribute in enumerate(sums.attributes)
    ]


@dataclass(frozen=True)
class Readings:
    """Readings of validation images: (images, attributes), with their signs."""

    values: Tensor
    signs: Tensor

    def auc(self, attribute: int) -> float:
        """Chance that an image with the attribute reads higher than one without it."""
        sign = self.signs[:, attribute]
        positive = self.values[sign == 1, attribute]
        negative = self.values[sign == -1, attribute].sort().values
        # Mann-Whitney's U as a share, where a tie counts half
        below = torch.searchsorted(negative, positive)
        up_to = torch.searchsorted(negative, positive, right=True)
        return ((below + up_to) / 2).mean().item() / len(negative) if len(negative) else math.nan


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
        sign.append(labels.signs(names, [d.name for d in directions]))
    return Readings(torch.cat(values), torch.cat(sign))


BURST = 0.2  # how far a decoded value may leave the 0 to 1 scale before the picture breaks
BURST_SHARE = 0.01  # of a picture's values; fewer are clipped away and break nothing
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)


@torch.inference_mode()
def ranged(flow: Flow, direction: Direction, latents: Tensor, share: float = 0.98) -> Direction:
    """The direction with `min` and `max` at the greatest strengths of STRENGTHS, each way, at
    which `share` of the faces hold: all but BURST_SHARE of their decoded values stay within
    [-BURST, 1 + BURST]. At least the first. `latents` are flat, (faces, dimensions)."""
    vector = direction.vector.to(latents.device)
    allowed = (1 - share) * len(latents)

    def holds(strength: float) -> bool:
        burst = 0
        for chunk in latents.split(16):
            pictures = flow.decode(flow.unflatten(chunk + strength * vector)).flatten(1)
            outside = (pictures < -BURST) | (pictures > 1 + BURST)
            burst += int((outside.double().mean(1) > BURST_SHARE).sum())
            if burst > allowed:  # no face to come can make up for it
                return False
        return True

    def reach(sign: int) -> float:
        first_burst = bisect_left(STRENGTHS, True, key=lambda s: not holds(sign * s))
        return sign * STRENGTHS[max(0, first_burst - 1)]

    return replace(direction, min=reach(-1), max=reach(1))
