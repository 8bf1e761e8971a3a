"""Aligned faces: the light of their skin, and the border around them."""

import torch
from torch import Tensor

# middles of squares a tenth of the crop's side
CHEEKS = ((0.27, 0.55), (0.73, 0.55))
FOREHEAD = ((0.5, 0.18),)
BORDER = 1 / 32  # of the crop's side
FADE = 1 / 16  # likewise


def border_width(side: int) -> int:
    """Pixels, in a square of that side."""
    return max(1, round(side * BORDER))


def border(side: int) -> Tensor:
    """Which pixels of a square are on its border, (side, side)."""
    width = border_width(side)
    border = torch.ones(side, side, dtype=torch.bool)
    border[width:-width, width:-width] = False
    return border


def inside(side: int) -> Tensor:
    """How far each pixel of a square is within its border, (side, side): 0 there, and 1 from `FADE`
    of the side on."""
    place = torch.arange(side) + 0.5
    from_edge = torch.minimum(place, side - place) - border_width(side)
    within: Tensor = (torch.minimum(from_edge[:, None], from_edge) / (side * FADE)).clamp(0, 1)
    return within


def luminance(pictures: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W) on the 0 to 1 scale, in grey levels of 0 to 255 (BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
    # not as a product of matrices, which autocast would round to whole grey levels
    return (pictures.clamp(0, 1) * weights[:, None, None]).sum(1) * 255


def skin_light(pictures: Tensor) -> Tensor:
    """Mean luminance of the cheeks and of the forehead, grey levels, (2, B)."""
    return torch.stack([cheeks(pictures), forehead(pictures)])


def cheeks(pictures: Tensor) -> Tensor:
    """Mean luminance of the cheeks, grey levels, (B,)."""
    return _light(pictures, CHEEKS)


def forehead(pictures: Tensor) -> Tensor:
    """Mean luminance of the forehead, grey levels, (B,)."""
    return _light(pictures, FOREHEAD)


def _light(pictures: Tensor, places: tuple[tuple[float, float], ...]) -> Tensor:
    side = pictures.shape[-1]
    half = max(1, round(side * 0.05))
    grey = luminance(pictures)
    squares = []
    for x, y in places:
        column, row = round(x * side), round(y * side)
        squares.append(grey[:, row - half : row + half, column - half : column + half])
    return torch.stack(squares).mean(dim=(0, 2, 3))
