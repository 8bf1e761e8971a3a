"""Aligned faces: the light and the colours of their skin, and the border around them."""

import torch
from torch import Tensor

# middles of squares a tenth of the crop's side
CHEEKS = ((0.27, 0.55), (0.73, 0.55))
FOREHEAD = ((0.5, 0.18),)
BORDER = 1 / 32  # of the crop's side
FADE = 1 / 16  # likewise
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (BT.601)
COLOURS = 2.0  # deviations from a face's mean chroma within which its colours are
GREY = 4 / 255  # deviation of chroma that is added, so that a face in grey may have some


def border_width(side: int) -> int:
    """Pixels, in a square of that side."""
    return max(1, round(side * BORDER))


def border(side: int) -> Tensor:
    """Which pixels of a square are on its border, (side, side)."""
    width = border_width(side)
    border = torch.ones(side, side, dtype=torch.bool)
    border[width:-width, width:-width] = False
    return border


def inside(side: int, device: torch.device | None = None) -> Tensor:
    """How far each pixel of a square is within its border, (side, side): 0 there, and 1 from `FADE`
    of the side on."""
    place = torch.arange(side, device=device) + 0.5
    from_edge = torch.minimum(place, side - place) - border_width(side)
    within: Tensor = (torch.minimum(from_edge[:, None], from_edge) / (side * FADE)).clamp(0, 1)
    return within


def luminance(pictures: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W) on the 0 to 1 scale, in grey levels of 0 to 255."""
    luma, _, _ = _luma_and_chroma(pictures.clamp(0, 1))
    return 255 * luma


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


def in_colours_of(faces: Tensor, pictures: Tensor) -> Tensor:
    """The pictures, (B, 3, H, W), with the chroma of a pixel drawn nearer to the mean chroma of the
    crop of the face, likewise and on the same scale, where it lies further out than `COLOURS` and
    than the crop itself is there; luma stays. Of steps that lead far a flow draws what no face is:
    teeth in green, eyes in neon blue."""
    _, red, blue = _luma_and_chroma(faces)
    within = inside(faces.shape[-1], faces.device)

    def mean(values: Tensor) -> Tensor:
        return (values * within).sum(dim=(1, 2), keepdim=True) / within.sum()

    mean_red, mean_blue = mean(red), mean(blue)
    red, blue = red - mean_red, blue - mean_blue
    variance = mean(red.square()) + GREY**2
    slope = mean(red * blue) / variance
    rest = mean((blue - slope * red).square()) + GREY**2

    def deviations(red: Tensor, blue: Tensor) -> Tensor:
        return (red.square() / variance + (blue - slope * red).square() / rest).sqrt()

    luma, new_red, new_blue = _luma_and_chroma(pictures)
    new_red, new_blue = new_red - mean_red, new_blue - mean_blue
    allowed = deviations(red, blue).clamp(min=COLOURS)
    nearer = (allowed / deviations(new_red, new_blue)).clamp(max=1)
    new_red, new_blue = mean_red + nearer * new_red, mean_blue + nearer * new_blue
    green = -(LUMA[0] * new_red + LUMA[2] * new_blue) / LUMA[1]
    return luma[:, None] + torch.stack([new_red, green, new_blue], dim=1)


def _luma_and_chroma(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Luma, and by how much red and blue differ from it, (B, H, W) each."""
    # not as a product of matrices, which autocast would round to whole grey levels
    red, green, blue = pictures.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma, red - luma, blue - luma
