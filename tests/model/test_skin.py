"""The skin's light, and the border."""

import pytest
import torch

from model.skin import border, cheeks, forehead, inside, luminance


def test_luminance_is_the_eyes() -> None:
    colours = torch.eye(3)[:, :, None, None]  # pure red, green, blue
    found = luminance(colours).flatten() / 255
    torch.testing.assert_close(found, torch.tensor([0.299, 0.587, 0.114]))
    assert luminance(torch.full((1, 3, 1, 1), 7.0)).item() == pytest.approx(255)


def test_each_sees_its_own_skin_alone() -> None:
    pictures = torch.zeros(3, 3, 64, 64)
    pictures[1, :, 32:38, 15:19] = 1  # the left one
    pictures[2, :, :30] = 1  # forehead, brows and eyes
    dark, left, brow = cheeks(pictures).tolist()
    assert dark == brow == 0
    assert left > 60
    assert forehead(pictures).tolist() == pytest.approx([0, 0, 255])


def test_the_border_is_a_thirtysecond_of_the_side_and_a_pixel_at_least() -> None:
    for side, width in ((8, 1), (32, 1), (64, 2), (128, 4)):
        found = border(side)
        assert found.shape == (side, side)
        assert found[:width].all()
        assert found[:, -width:].all()
        assert not found[width:-width, width:-width].any()


@pytest.mark.parametrize("side", [8, 64, 128])
def test_what_is_inside_begins_at_the_border_and_fades_in(side: int) -> None:
    found = inside(side)
    assert (found[border(side)] == 0).all()
    assert (found[~border(side)] > 0).all()
    assert found[side // 2, side // 2] == 1
    row = found[side // 2, : side // 2]
    fading = (row > 0) & (row < 1)
    assert fading.sum() == side // 16
    assert (row[fading].diff() > 0).all()
    torch.testing.assert_close(found, found.flip(0, 1).T)
