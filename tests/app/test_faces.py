import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import faces
from app.faces import Box

# The eyes of the portrait, (x, y), by hand.
LEFT_EYE, RIGHT_EYE = (202, 103), (245, 105)


def in_crop(box: Box, x: float, y: float) -> np.ndarray:
    """A place of the photograph in shares of the crop's side."""
    to_crop = cv2.invertAffineTransform(box.to_photo(1000))
    return (to_crop @ (x, y, 1)) / 1000


def test_eyes_are_brought_to_the_places_the_model_knows(portrait: np.ndarray) -> None:
    face, *others = faces.find(portrait)
    assert not others
    assert 0.5 < face.confidence <= 1
    assert in_crop(face.box, *LEFT_EYE) == pytest.approx([0.325, 0.34], abs=0.04)
    assert in_crop(face.box, *RIGHT_EYE) == pytest.approx([0.675, 0.34], abs=0.04)


@pytest.mark.parametrize("tilt", [-25, -10, 12, 30])
def test_a_tilted_face_is_found_and_set_upright(portrait: np.ndarray, tilt: float) -> None:
    turn = cv2.getRotationMatrix2D((223, 120), -tilt, 1)  # clockwise by tilt
    tilted = cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
    box = faces.find(tilted)[0].box
    upright = faces.find(portrait)[0].box
    assert box.angle - upright.angle == pytest.approx(tilt, abs=6)
    for eye, place in ((LEFT_EYE, 0.325), (RIGHT_EYE, 0.675)):
        assert in_crop(box, *(turn @ (*eye, 1))) == pytest.approx([place, 0.34], abs=0.06)


def test_several_faces_come_the_most_prominent_first(portrait: np.ndarray) -> None:
    small = cv2.resize(portrait[:300, 100:350], None, fx=0.5, fy=0.5)
    both = np.full((400, 600, 3), 128, np.uint8)
    both[50:350, 20:270] = portrait[:300, 100:350]
    both[100:250, 400:525] = small
    first, second = faces.find(both)
    assert first.box.size > 1.5 * second.box.size
    assert first.box.x < 300 < second.box.x


def test_a_picture_without_a_face_has_none() -> None:
    assert faces.find(np.full((300, 300, 3), 127, np.uint8)) == []


def test_the_crop_of_a_picture_of_the_right_size_is_the_picture() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert (faces.align(photo, faces.centred(photo), 64) == photo).all()


def test_the_crop_turns_clockwise_with_the_angle() -> None:
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[:, :50] = 255  # left half is white
    turned = faces.align(photo, Box(0, 0, 100, 90), 10)
    # a crop turned clockwise has its own top towards the photograph's right
    assert turned[:4].max() == 0
    assert turned[6:].min() == 255


def test_what_lies_outside_is_mirrored() -> None:
    photo = np.tile(np.arange(100, dtype=np.uint8)[:, None, None], (1, 100, 3))
    crop = faces.align(photo, Box(0, -50, 100), 100)
    assert (crop[:50, 0, 0] == np.arange(50)[::-1]).all()


@settings(deadline=None)
@given(
    x=st.floats(-60, 60), y=st.floats(-60, 60), size=st.floats(10, 300), angle=st.floats(-180, 180)
)
def test_no_change_pastes_back_every_pixel(x: float, y: float, size: float, angle: float) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    none = np.zeros((32, 32, 3), np.float32)
    assert (faces.paste_back(photo, Box(x, y, size, angle), none) == photo).all()


@pytest.mark.parametrize("size", [20, 64, 200])
def test_a_change_lands_where_it_was_made(size: int) -> None:
    """A blob of change in the crop's left eye moves the photograph there, by as much, and nothing
    outside the box."""
    photo = np.full((400, 400, 3), 100, np.uint8)
    box = Box.around(200, 200, size, 30)
    change = np.zeros((64, 64, 3), np.float32)
    change[18:27, 17:26] = 50
    moved = faces.paste_back(photo, box, change).astype(float) - photo
    weights = moved[:, :, 0]
    centre = np.array(
        [(weights.sum(0) * np.arange(400)).sum(), (weights.sum(1) * np.arange(400)).sum()]
    )
    expected = box.to_photo(64) @ (21, 22, 1)
    assert centre / weights.sum() == pytest.approx(expected, abs=0.02 * size)
    assert weights.sum() == pytest.approx(81 * 50 * (size / 64) ** 2, rel=0.15)
    far = np.hypot(*(np.indices((400, 400)) - 199.5)) > size * 0.75
    assert not moved[far].any()


def test_the_change_fades_towards_the_border() -> None:
    photo = np.full((100, 100, 3), 100, np.uint8)
    full = np.full((32, 32, 3), 80, np.float32)
    edited = faces.paste_back(photo, Box(20, 20, 60), full).astype(int)[50, :, 0]
    assert np.abs(np.diff(edited)).max() <= 20
    assert edited[50] == 180
    assert edited[:20].max() == edited[80:].max() == 100
