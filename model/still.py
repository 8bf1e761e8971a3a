"""Directions that move the face and leave the rest of the picture still.

What people who have an attribute share beside it, a difference of means has too: the bright
background of official portraits, say, comes with age. And the numbers of a latent tell little of a
direction, since most of them move next to nothing, and some the whole picture. So of all directions
that is sought which does to the face what the given one does, and as little as it can to the
border of the crop and to the light of the skin.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model.attributes import BATCH, all_edited, bursts, flat_latents
from model.flow import Flow
from model.runtime import Frozen
from model.skin import border, skin_light
from model.train import has_bfloat16

CELLS = 32  # a side, in which movements of pictures are measured; the outermost are the border
SKETCHES = 8  # a face and form
SKIN_WEIGHT = 1 / 3  # how much the light of cheeks or forehead counts beside the border
MOST_NUMBERS = 4096  # numbers that may move: the forms have their square


@dataclass(frozen=True)
class Response:
    """What small steps of the last n numbers of a flat latent do to pictures: the mean squares of
    how cells move, in grey levels of 0 to 255, as quadratic forms of the step, (n, n), float64. Of
    the `face`, which is all within the border, and of the `rest`, the border's cells and the
    light of cheeks and forehead. `light` is how the means of the latter two move, linear forms,
    (2, n), float64."""

    face: Tensor
    rest: Tensor
    light: Tensor


def respond(flow: Flow, faces: Tensor, directions: Tensor, numbers: int) -> Response:
    """The mean response at faces (uint8), each moved somewhere along one of the directions, flat,
    (D, dimensions): E[J'J] of decode's Jacobian J, as the mean of gg' over g = J'v with standard
    normal v (as in Hutchinson 1990). A face that bursts where it is moved to is left out.

    Raises ValueError where all of them burst.
    """
    generator = torch.Generator().manual_seed(0)
    side = min(CELLS, flow.config.resolution)
    edge = border(side).to(flow.device)
    # so that the mean over the border's values has the squares of skin's light SKIN_WEIGHT times
    of_skin = (SKIN_WEIGHT * 3 * edge.sum()).sqrt()
    forms = torch.zeros(2, numbers, numbers, dtype=torch.float64)
    of_light = torch.zeros(2, numbers, dtype=torch.float64)
    count = 0

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(flow.device)

    for batch in tqdm(faces.split(BATCH), "responses", unit="batch"):
        draw = torch.rand(len(batch), 1, generator=generator) * 2 - 1
        along = torch.randint(len(directions), (len(batch),), generator=generator)
        with torch.no_grad():
            latents = flow.flatten(flow.encode(batch.to(flow.device))).to(flow.prior.mean)
        moved = latents + (draw * directions[along]).to(latents)
        head, tail = moved[:, :-numbers], moved[:, -numbers:].requires_grad_()
        with torch.autocast(flow.device.type, torch.bfloat16, has_bfloat16(flow.device)):
            pictures = flow.inverse(flow.unflatten(torch.cat([head, tail], dim=1))) + 0.5
        holds = ~bursts(pictures.detach())
        cells = 255 * F.adaptive_avg_pool2d(pictures, side)[holds]
        light = skin_light(pictures)[:, holds]
        for mean, movement in zip(of_light, light, strict=True):
            (gradient,) = torch.autograd.grad(movement.sum(), tail, retain_graph=True)
            mean += gradient[holds].double().cpu().sum(0)
        for _ in range(SKETCHES):
            draws = normal(*cells.shape)
            seen = (
                (draws * ~edge * cells).sum(),
                (draws * edge * cells).sum() + of_skin * (normal(*light.shape) * light).sum(),
            )
            for form, movement in zip(forms, seen, strict=True):
                (gradient,) = torch.autograd.grad(movement, tail, retain_graph=True)
                gradient = gradient[holds].double().cpu()
                form += gradient.T @ gradient
        count += int(holds.sum())
    if not count:
        raise ValueError("every face bursts where the directions move it")
    values = 3 * torch.stack([(~edge).sum(), edge.sum()]).cpu()
    face, rest = forms / (SKETCHES * count * values[:, None, None])
    return Response(face, rest, of_light / count)


def stilled(vector: Tensor, response: Response, times: float) -> Tensor:
    """Of a direction's numbers (n,) those that move the face most nearly as it does while the
    rest's movement counts so many `times` beside the face's: least squares, with diagonal loading.
    What that takes away in length too is given back: it is the multiple that moves the face most
    nearly as the direction.
    """
    face, vector = response.face, vector.double()
    loaded = _loaded(face)
    found: Tensor = torch.linalg.solve(loaded + times * response.rest, loaded @ vector)
    return found * (found @ face @ vector) / (found @ face @ found)


def balanced(vector: Tensor, response: Response, times: float, light: Tensor) -> Tensor:
    """Of a direction's numbers (n,) those nearest to it, by what `stilled` goes by, whose step
    moves the skin's mean light by `light`, (2,), less."""
    metric = _loaded(response.face) + times * response.rest
    moving = torch.linalg.solve(metric, response.light.T)
    without: Tensor = vector - moving @ torch.linalg.solve(response.light @ moving, light.double())
    return without


def _loaded(face: Tensor) -> Tensor:
    """With diagonal loading by the mean: what moves next to nothing is not well known."""
    return face + face.diagonal().mean() * torch.eye(len(face), dtype=torch.float64)


def light_moved(flow: Frozen, faces: Tensor, step: Tensor) -> Tensor:
    """By how much a flat step, (dimensions,), moves the mean light of the skin of faces (uint8),
    grey levels, (2,): small steps do not tell, for glasses darken cheeks the more the clearer they
    are."""
    moved, _ = all_edited(flow, flat_latents(flow, faces), step)
    before = skin_light(faces.to(moved.device).float().add(0.5) / flow.bins)
    moved_by: Tensor = (skin_light(moved) - before).double().mean(1).cpu()
    return moved_by
