"""The skin of aligned faces: its light, and directions that leave it as it is."""

import torch
from torch import Tensor

from model.runtime import Frozen

CHEEKS = ((0.27, 0.55), (0.73, 0.55))  # middles of squares a tenth of the crop's side
ROUNDS = 2  # what is taken back moves the cheeks a little otherwise than it was measured to


def luminance(pictures: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W) on the 0 to 1 scale, in grey levels of 0 to 255 (BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
    return torch.einsum("bchw,c->bhw", pictures.clamp(0, 1), weights) * 255


def cheeks(pictures: Tensor) -> Tensor:
    """Mean luminance of the cheeks, grey levels, (B,)."""
    side = pictures.shape[-1]
    half = max(1, round(side * 0.05))
    grey = luminance(pictures)
    squares = []
    for x, y in CHEEKS:
        column, row = round(x * side), round(y * side)
        squares.append(grey[:, row - half : row + half, column - half : column + half])
    return torch.stack(squares).mean(dim=(0, 2, 3))


@torch.inference_mode()
def kept(flow: Frozen, vectors: Tensor, light: Tensor, latents: Tensor) -> Tensor:
    """Directions (attributes, dimensions) less as much of `light`, (dimensions,), as undoes what
    they do to the cheeks of the faces at `latents` (faces, dimensions), on average: half the
    difference between one unit up and one down. Holding a luminance column still in the means does
    not suffice, since a decode is not linear.
    """

    def effect(vector: Tensor, strength: float) -> float:
        """Grey levels a unit of strength."""
        up, down = (
            torch.cat(
                [
                    cheeks(flow.decode(flow.unflatten(chunk + s * vector)))
                    for chunk in latents.split(16)
                ]
            )
            for s in (strength, -strength)
        )
        return ((up - down).mean() / (2 * strength)).item()

    of_light = effect(light, 0.25)
    found = []
    for vector in vectors:
        for _ in range(ROUNDS):
            vector = vector - effect(vector, 1.0) / of_light * light
        found.append(vector)
    return torch.stack(found)
