"""Attribute directions: the difference of the mean latents of the images that have an attribute
and those that do not (Glow, section 6, "semantic manipulation"), plain or with the other attributes
held still."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.bundle import Direction
from model.config import FlowConfig
from model.data import Labels
from model.runtime import Frozen

BATCH = 16  # images at once: more leave the cache


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
    combination of signs in the columns `stratify`, so without any there is one. For `hold`, the
    sums of products of [1, sign, grades in the columns `hold`], and of these with latents, over
    the images that have each attribute or have it not.

    Memory is that of two latents an attribute and stratum, and of one more an attribute and held
    column, however many images there are.
    """

    attributes: list[Attribute]
    stratify: list[str]
    latents: dict[tuple[float, ...], Tensor]  # by stratum, (2, attributes, dimensions)
    counts: dict[tuple[float, ...], Tensor]  # by stratum, (2, attributes)
    hold: list[str]
    products: Tensor  # (attributes, 2 + held, 2 + held)
    moments: Tensor  # (attributes, 2 + held, dimensions)

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
    flow: Frozen,
    batches: Batches,
    labels: Labels,
    attributes: list[Attribute],
    stratify: list[str] | None = None,
    hold: list[str] | None = None,
) -> Sums:
    """The sums of one pass over the images.

    Raises ValueError for an attribute that no image has, or none lacks, and what `Labels.signs`
    does.
    """
    columns, stratify, hold = [a.name for a in attributes], stratify or [], hold or []
    shape = (len(columns), 2 + len(hold))
    products = torch.zeros(*shape, shape[1], dtype=torch.float64)
    moments = torch.zeros(*shape, flow.config.dimensions, dtype=torch.float64)
    sums = Sums(attributes, stratify, {}, {}, hold, products, moments)
    for names, images in batches:
        sign = labels.signs(names, columns)
        latent = flow.flatten(flow.encode(images.to(flow.device))).double().cpu()
        grades = labels.grades(names, hold)[:, None].expand(-1, len(columns), -1)
        rows = torch.cat([torch.ones_like(sign)[..., None], sign[..., None], grades], dim=2)
        rows = rows * sign.abs()[..., None]
        products += torch.einsum("bai,baj->aij", rows, rows)
        moments += torch.einsum("bai,bd->aid", rows, latent)
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


TELLTALE = 0.8  # correlation beyond which a column is the attribute itself by another name


def held_still(sums: Sums) -> tuple[Tensor, Tensor]:
    """The least-squares prediction of latents from an attribute and the columns `hold`, for an
    image with the attribute and without that is average in those columns, (attributes,
    dimensions): the mean difference with them held still, and without any the mean difference
    itself. Not held are the attribute's own column and any that tells it (TELLTALE): held, it
    would leave nothing to move. Columns that add up to one another get the solution of least norm.
    """
    means = []
    for i, attribute in enumerate(sums.attributes):
        products, moments = sums.products[i], sums.moments[i]
        count, centre = products[0, 0], products[0] / products[0, 0]
        covariance = products / count - centre[:, None] * centre
        deviations = covariance.diagonal().clamp(min=0).sqrt()
        others = [
            j
            for j, column in enumerate(sums.hold, 2)
            if column != attribute.name
            and covariance[1, j].abs() <= TELLTALE * deviations[1] * deviations[j]
        ]
        used = torch.tensor([1, *others])
        moment = moments[used] / count - centre[used, None] * (moments[0] / count)
        inverse = torch.linalg.pinv(covariance[used][:, used], rtol=1e-9, hermitian=True)
        slope = (inverse @ moment)[0]
        mean = moments[0] / count
        means.append(torch.stack([mean + (1 - centre[1]) * slope, mean - (1 + centre[1]) * slope]))
    positive, negative = torch.stack(means, dim=1)
    return positive, negative


def confined(
    means: tuple[Tensor, Tensor], config: FlowConfig, levels: int
) -> tuple[Tensor, Tensor]:
    """The mean latents, (attributes, dimensions), where they differ in the parts of the last
    `levels` levels alone. What a face is lies there; in the parts before them, larger by far, it
    leaves traces that move little but noise."""
    last = sum(math.prod(shape) for shape in config.part_shapes[-levels:])
    positive, negative = (mean.clone() for mean in means)
    middle = (positive + negative)[:, :-last] / 2
    positive[:, :-last] = negative[:, :-last] = middle
    return positive, negative


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

    def clear(self, attribute: int, share: float) -> tuple[float, float]:
        """The mean reading of the images that clearly lack the attribute, and of those that
        clearly have it: of either kind the `share` that reads clearest, one image at least.

        Raises ValueError where there is none of a kind.
        """
        sign = self.signs[:, attribute]
        means = []
        for kind in (-1, 1):
            clearest = (kind * self.values[sign == kind, attribute]).sort(descending=True).values
            if not len(clearest):
                raise ValueError("clear images need some with each attribute and some without")
            means.append(kind * clearest[: max(1, round(share * len(clearest)))].mean().item())
        return means[0], means[1]


@torch.inference_mode()
def read(flow: Frozen, directions: list[Direction], batches: Batches, labels: Labels) -> Readings:
    """Where each image lies on each attribute's slider."""
    readers = torch.stack([direction.reader for direction in directions])
    origins = torch.tensor([d.origin for d in directions], dtype=torch.float64)
    values, sign = [], []
    for names, images in batches:
        latent = flow.flatten(flow.encode(images.to(flow.device))).double().cpu()
        values.append(latent @ readers.T - origins)
        sign.append(labels.signs(names, [d.name for d in directions]))
    return Readings(torch.cat(values), torch.cat(sign))


def spanning(direction: Direction, lacking: float, having: float) -> Direction:
    """The direction with the step from one reading to another as its unit: these then read -0.5
    and 0.5.

    Raises ValueError where the step does not lead up.
    """
    unit = having - lacking
    if not unit > 0:
        raise ValueError(f"images clearly with {direction.name} read no higher than those without")
    return replace(
        direction,
        vector=unit * direction.vector,
        origin=(direction.origin + (lacking + having) / 2) / unit,
        std=direction.std / unit,
    )


def led(direction: Direction, vector: Tensor) -> Direction:
    """The direction with another vector, read along what it was read along: what read 0 does so
    still, and the unit of readings is again that of strength.

    Raises ValueError where the vector does not lead up.
    """
    longer = (direction.along @ direction.vector.double()) / (direction.along @ vector.double())
    if not 0 < longer < math.inf:
        raise ValueError(f"the vector leads {direction.name} nowhere")
    return replace(
        direction,
        vector=vector.float(),
        difference=direction.along.float(),
        origin=direction.origin * longer.item(),
        std=direction.std * longer.item(),
    )


BURST = 0.2  # how far a decoded value may leave the 0 to 1 scale before the picture breaks
WORSE = 0.1  # how much further an edit may take one that breaks by itself, with half of that
AIM = 0.85  # of what a picture may leave the scale by: a step that bursts it is cut to reach this
LEAST, MOST = 0.6, 0.9  # that is left of a step by one cut
FEW = 3  # cuts after which it is asked whether the face itself bursts
CUTS = 8  # at most, after these
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)


def overshoot(pictures: Tensor) -> Tensor:
    """How far each picture (B, C, H, W) leaves the 0 to 1 scale, (B,)."""
    flat = pictures.flatten(1)
    return torch.maximum(-flat.amin(1), flat.amax(1) - 1)


def bursts(pictures: Tensor) -> Tensor:
    """Which pictures (B, C, H, W) leave the 0 to 1 scale by more than BURST, (B,)."""
    return ~(overshoot(pictures) <= BURST)  # infinities may decode to what is not a number


@torch.inference_mode()
def edited(
    decode: Callable[[Tensor], Tensor], latents: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """The pictures decode(latents + steps), and the share of each step that was taken: one whose
    picture bursts is shortened until it holds. Beyond the latents that the flow has seen, a decode
    can grow without bound; how far a face may move before that, only the decode tells.

    A face that was drawn or mixed may burst by itself, or nearly: its steps may add half of what it
    leaves the scale by, and WORSE. One that adds more however short is not taken.

    `latents` and `steps` are flat, (B, dimensions), and `decode` takes such. No step, no change:
    that picture is the latent's own.
    """
    pictures = decode(latents + steps)
    share = torch.ones(len(latents), dtype=latents.dtype, device=latents.device)

    def cut(some: Tensor, bound: Tensor, times: int) -> Tensor:
        """Shortens the steps of some pictures until they hold within their bounds; those that
        do not in so many times."""
        for _ in range(times):
            over = overshoot(pictures[some]).nan_to_num(torch.inf)
            burst = over > bound
            some, bound, over = some[burst], bound[burst], over[burst]
            if not len(some):
                break
            # Overshoot grows as the share's square and, far out, as powers beyond ten of it
            share[some] *= (AIM * bound / over).sqrt().clamp(LEAST, MOST)
            pictures[some] = decode(latents[some] + share[some, None] * steps[some])
        return some[~(overshoot(pictures[some]) <= bound)]

    again = torch.nonzero(bursts(pictures) & steps.any(1))[:, 0]
    again = cut(again, pictures.new_full((len(again),), BURST), FEW)
    if len(again):
        own = overshoot(decode(latents[again])).nan_to_num(0)
        bound = (1.5 * own + WORSE).clamp(min=BURST)
        wild = again[bound > BURST]
        if len(wild):
            share[wild] = 1
            pictures[wild] = decode(latents[wild] + steps[wild])
        still = cut(again, bound, CUTS)
        if len(still):
            share[still] = 0
            pictures[still] = decode(latents[still])
    return pictures, share


@torch.inference_mode()
def flat_latents(flow: Frozen, images: Tensor) -> Tensor:
    """Latents of images (uint8), flat, (images, dimensions), on the flow's device."""
    batches = images.to(flow.device).split(BATCH)
    return torch.cat([flow.flatten(flow.encode(batch)) for batch in batches])


@torch.inference_mode()
def all_edited(flow: Frozen, latents: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """As `edited`, for any number of flat latents; `steps` are one, or one for each."""
    steps = steps.to(latents).expand_as(latents)
    done = [
        edited(lambda z: flow.decode(flow.unflatten(z)), *both)
        for both in zip(latents.split(BATCH), steps.split(BATCH), strict=True)
    ]
    pictures, shares = (torch.cat(each) for each in zip(*done, strict=True))
    return pictures, shares


@torch.inference_mode()
def ranged(flow: Frozen, direction: Direction, latents: Tensor, share: float = 0.5) -> Direction:
    """The direction with `min` and `max` at -1 and 1, or further at the greatest of STRENGTHS, each
    way, whose step at least `share` of the faces take whole. `latents` are flat, (faces,
    dimensions)."""
    vector = direction.vector.to(latents.device)
    allowed = (1 - share) * len(latents)

    def holds(strength: float) -> bool:
        burst = 0
        for chunk in latents.split(BATCH):
            burst += int(bursts(flow.decode(flow.unflatten(chunk + strength * vector))).sum())
            if burst > allowed:  # no face to come can make up for it
                return False
        return True

    ends = [strength for strength in STRENGTHS if strength >= 1]

    def reach(sign: int) -> float:
        whole = bisect_left(ends[1:], True, key=lambda end: not holds(sign * end))
        return sign * ends[whole]

    return replace(direction, min=reach(-1), max=reach(1))
