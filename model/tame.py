"""Taming: what edits do, held in training.

Maximum likelihood says nothing of decode where no image's latent is, and there it can grow without
bound. So the latents of some training images are moved along directions, as an edit moves them, and
their pictures are to stay on their scale. Holding decode makes encode drive far apart what is no
face, in the end past what float64 brings back: so noise is held near, too.

Of faces in aligned crops it can be asked further that an edit changes the face alone: that around
it the moved picture is the picture itself, that the skin keeps its light, and that within all is as
a teacher draws it: the flow from before, moved as far, but in colours that the face has. Without
the teacher an edit that does nothing would be the best. Midway between two latents is to be what
the teacher draws there, within the scale: where edits alone are held, mixes and samples grow rough
and leave it. (The mean of two draws deviates by 0.7 of what they do.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.attributes import BURST, bursts
from model.flow import Flow
from model.skin import in_colours_of, inside, skin_light

MOVED = 4  # of so many images the latent of one is moved
LEAST, MOST = 0.25, 1.5  # strengths by which
FAR = 100.0  # deviations: a number of a latent may be so far out for a picture of noise
BURST_WEIGHT = 0.1  # bits/dim
STRAY_WEIGHT = 0.01  # bits/dim a grey level
GAUDY = 4.0  # times that a colour counts, beside a grey level, which no face has
RIM = 4.0  # grey levels by which what is around a face may move before that counts more than within


@dataclass(frozen=True)
class Taming:
    """What latents are moved along in training, `directions`, flat (D, dimensions), and `still`
    (D,): from 0 to 1, how much around the face and of the skin's light and colours is to stay as
    it is, where there is a `teacher`; and above 1, all of it, along what is drawn so many times as
    often as others. All is where the flow is that learns."""

    directions: Tensor
    still: Tensor
    teacher: Flow | None = None

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For so many images: by how much their latents move, (count, dimensions), one in `MOVED`
        of them, along one direction or two at once; and how still all else is to stay, (count,)."""
        device = self.directions.device
        shape = (count, len(self.directions))
        draw, order, size, sign = torch.rand(4, *shape, generator=generator, device=device)
        along = 1 + (draw[:, :1] < 0.5).int()
        strengths = (LEAST + (MOST - LEAST) * size) * torch.where(sign < 0.5, -1, 1) / along.sqrt()
        # without replacement, each as often as its share (Efraimidis & Spirakis 2006)
        first = (order.log() / self.still.clamp(min=1)).argsort(1, descending=True)
        strengths[first.argsort(1) >= along] = 0
        strengths[torch.arange(count, device=device) % MOVED > 0] = 0
        still = torch.where(strengths == 0, 1, self.still.clamp(max=1)).amin(1)
        return strengths @ self.directions, still

    def loss(
        self,
        flow: Flow,
        y: Tensor,
        latents: Tensor,
        labels: Tensor | None,
        steps: Tensor,
        still: Tensor,
        noise: Tensor,
        others: Tensor,
    ) -> Tensor:
        """What a flow is to bring down beside the likelihood, bits/dim summed over images y that
        move, whose flat `latents`, (B, dimensions), do so by `steps`; `noise` and `others`, as y,
        are as many pictures of noise, and images that they are mixed with.

        Gradients go through encode, too: where a step is small the picture stays what it is,
        whatever the weights are, and decode alone does not know that.
        """
        if not len(y):
            return y.new_zeros(())
        if not self.teacher:
            pictures = flow.inverse(flow.unflatten(latents + steps), labels)
            of_noise = flow.flatten(flow(noise, labels)[0])
            return BURST_WEIGHT * (burst_loss(pictures) + far_loss(of_noise)).sum()
        # two at a time, which on a GPU takes as long as one
        both = None if labels is None else labels.repeat(2)
        of_noise, other = flow.flatten(flow(torch.cat([noise, others]), both)[0]).chunk(2)
        places = torch.cat([latents + steps, (latents + other) / 2])
        pictures, mixes = flow.inverse(flow.unflatten(places), both).chunk(2)
        with torch.no_grad():
            teacher = self.teacher
            known, known_other = teacher.flatten(teacher(torch.cat([y, others]), both)[0]).chunk(2)
            places = torch.cat([known + steps, (known + known_other) / 2])
            asked, asked_mixes = teacher.inverse(teacher.unflatten(places), both).chunk(2)
            holds = ~bursts(asked + 0.5) & ~bursts(pictures.detach() + 0.5)
            recoloured = in_colours_of(y, asked) - asked
            asked = asked + still[:, None, None, None] * recoloured
        # what bursts asks for nothing, and gives no gradient that is not a number
        moved, asked = (
            torch.where(holds[:, None, None, None], each, y) for each in (pictures, asked)
        )
        strayed = holds * stray(moved, y, asked, still)
        off = (mixes.clamp(-0.5, 0.5) - asked_mixes.clamp(-0.5, 0.5)).nan_to_num(0).abs()
        loss = STRAY_WEIGHT * (strayed.sum() + 255 * off.mean(dim=(1, 2, 3)).sum())
        bursting = burst_loss(pictures) + burst_loss(mixes) + far_loss(of_noise)
        return loss + BURST_WEIGHT * bursting.sum()


def burst_loss(pictures: Tensor) -> Tensor:
    """How far pictures y leave their scale, (B,): logarithmic in the sum of what lies outside, for
    one that bursts does so by orders of magnitude."""
    return _beyond(pictures, 0.5 + BURST / 4, 20)


def far_loss(latents: Tensor) -> Tensor:
    """How far flat latents, (B, dimensions), are beyond `FAR`, as `burst_loss` of pictures."""
    return _beyond(latents, FAR, 1)


def _beyond(values: Tensor, bound: float, scale: float) -> Tensor:
    beyond = (values.abs() - bound).clamp(min=0).nan_to_num(0, 1e4, 1e4)
    return torch.log1p(scale * beyond.flatten(1).sum(1))


def stray(moved: Tensor, before: Tensor, asked: Tensor, still: Tensor) -> Tensor:
    """How far edited pictures y are from what is asked for, grey levels, (B,): within from the
    pictures `asked` for, around the face from those `before`, as far as it is to be `still`, (B,),
    and how much lighter or darker cheeks and forehead became. Around the face it is the square over
    `RIM`, for a few attributes move far more there than others. Colours that the face has not count
    `GAUDY` times beside: they are few pixels, but the first that one sees. (So above a quarter of
    `still` none of them pays.)"""
    face = inside(moved.shape[-1], moved.device)
    around = 1 - face
    rim = asked + still[:, None, None, None] * (before - asked)
    gaudy = (moved - in_colours_of(before, moved.detach())).abs()
    off = (moved - asked).abs() + GAUDY * still[:, None, None, None] * gaudy
    within = (face * off).mean(dim=(1, 2, 3))
    at_rim = (around * (moved - rim)).abs().mean(dim=(1, 2, 3)) / around.mean()
    light = (skin_light(moved + 0.5) - skin_light(before + 0.5)).abs().sum(0)
    return 255 * within + (255 * at_rim).square() / RIM + still * light
