"""The skin's light, and the border."""

import pytest
import torch

from model.skin import GREY, border, cheeks, forehead, in_colours_of, inside, luminance


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


class TestInColoursOf:
    @pytest.fixture
    def face(self) -> torch.Tensor:
        """Skin of many shades of one hue, and lips, on the y scale."""
        generator = torch.Generator().manual_seed(0)
        shade = torch.rand(1, 1, 64, 64, generator=generator)
        skin = torch.tensor([0.9, 0.65, 0.5])[:, None, None] * (0.3 + 0.7 * shade) - 0.5
        skin[:, :, 42:48, 24:40] = torch.tensor([0.7, 0.2, 0.25])[:, None, None] - 0.5
        return skin

    def test_a_face_keeps_its_own(self, face: torch.Tensor) -> None:
        torch.testing.assert_close(in_colours_of(face, face), face)
        darker = 0.8 * (face + 0.5) - 0.5
        assert (in_colours_of(face, darker) - darker).abs().max() < 0.02

    def test_what_no_face_has_is_drawn_nearer_and_as_light(self, face: torch.Tensor) -> None:
        asked = face.clone()
        asked[:, :, 30:34, 30:34] = torch.tensor([0.1, 0.9, 0.3])[:, None, None] - 0.5
        found = in_colours_of(face, asked)
        torch.testing.assert_close(luminance(found + 0.5), luminance(asked + 0.5))
        changed = (found - asked).abs().sum(1)[0] > 0.01
        assert changed[30:34, 30:34].all()
        assert changed.sum() == 16
        red, green, _ = found[0, :, 31, 31]
        assert (asked[0, 1] - asked[0, 0])[31, 31] > 0.7
        assert green - red < 0.2

    def test_lips_stay_red_where_they_are_alone(self, face: torch.Tensor) -> None:
        """Red that is further out than most of a face may stay where it is, and not spread."""
        lips = face[:, :, 44:46, 30:34]
        asked = face.clone()
        asked[:, :, 10:12, 30:34] = lips
        found = in_colours_of(face, asked)
        torch.testing.assert_close(found[:, :, 44:46, 30:34], lips)
        assert ((found - asked)[:, :, 10:12, 30:34].abs().amax(1) > 0.01).all()

    def test_a_face_in_grey_stays_so(self) -> None:
        grey = torch.rand(2, 1, 64, 64).expand(-1, 3, -1, -1) - 0.5
        coloured = grey + torch.tensor([0.3, 0.0, -0.3])[:, None, None]
        found = in_colours_of(grey, coloured)
        assert (found.amax(1) - found.amin(1)).max() < 4 * GREY
