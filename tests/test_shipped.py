"""The models that ship: each loads, gives every pixel back, and its smile is in the mouth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from app import faces
from app.crops import cut
from app.settings import Settings
from model import attributes
from model.bundle import Bundle
from model.evaluate import noise
from model.runtime import Runtime, fastest, network_precision
from model.skin import border

NEEDED = {
    "smiling",
    "mouth_open",
    "eyes_open",
    "eyeglasses",
    "beard",
    "older",
    "masculine",
    "turned_right",
    "full_lips",
}


DEFAULT: Path = Settings.model_fields["bundle"].default
# pixels, bits/dim at most, and how much more a sharp portrait from outside the data may cost
SHIPPED = {"faces64": (64, 2.85, 0.5), "faces128": (128, 2.36, 1.2)}


@pytest.fixture(scope="module", params=SHIPPED)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.load(DEFAULT.with_name(f"{request.param}.safetensors"))


@pytest.fixture(scope="module")
def crop(bundle: Bundle, portrait: np.ndarray) -> Tensor:
    """The portrait's crop, (1, 3, side, side)."""
    pixels = cut(portrait, faces.find(portrait)[0].box, bundle)
    return torch.tensor(pixels).permute(2, 0, 1)[None]


def edited(bundle: Bundle, crop: Tensor, **strengths: float) -> Tensor:
    """The decoded crop after an edit, on the 0 to 1 scale."""
    runtime = fastest(bundle.flow)
    latent = bundle.flow.flatten(runtime.encode(crop))
    step = torch.zeros_like(latent)
    for direction in bundle.directions:
        step += strengths.get(direction.name, 0.0) * direction.vector
    pictures, _ = attributes.edited(
        lambda z: runtime.decode(bundle.flow.unflatten(z)), latent, step
    )
    return pictures


def test_the_default_is_one_of_them_and_there_is_no_other() -> None:
    assert {path.stem for path in DEFAULT.parent.glob("*.safetensors")} == SHIPPED.keys()
    assert DEFAULT.stem == "faces128"


def test_it_is_what_its_card_says(bundle: Bundle) -> None:
    side, most, _ = SHIPPED[bundle.name]
    assert bundle.resolution == side
    assert bundle.card["bits_per_dim"] < most
    for source in ("FairFace", "UK Parliament", "CivilServiceUSA"):
        assert source in str(bundle.card)


def test_it_knows_a_face_from_outside_its_data(bundle: Bundle, crop: Tensor) -> None:
    """Whose crop `faces64` would find most unlikely, had it not been made as its images were."""
    with torch.inference_mode():
        noise = torch.Generator().manual_seed(0)
        found = bundle.flow.bits_per_dim(bundle.flow.log_prob(crop, noise)).item()
    assert found < bundle.card["bits_per_dim"] + SHIPPED[bundle.name][2]


def test_it_has_the_attributes_that_people_ask_for(bundle: Bundle) -> None:
    assert {direction.name for direction in bundle.directions} >= NEEDED
    for direction in bundle.directions:
        assert direction.min < 0 < direction.max
        assert min(direction.positives, direction.negatives) > 100
        assert direction.std > 0


def test_it_reconstructs_exactly(bundle: Bundle, crop: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    size = crop.shape[1:]
    side = torch.arange(bundle.resolution)
    board = (side + side[:, None]) % 2 * 255
    adversarial = [
        crop[0],
        torch.zeros(size),
        torch.full(size, 255),
        board.expand(size),
        torch.randint(0, 256, size, generator=generator),
    ]
    images = torch.stack([image.to(torch.uint8) for image in adversarial])
    flow = bundle.flow
    with torch.inference_mode():
        for program in (flow, fastest(flow)):
            assert torch.equal(flow.quantize(program.decode(program.encode(images))), images)


def test_noise_of_black_and_white_comes_back(bundle: Bundle) -> None:
    """No picture is stranger to it."""
    images = noise(bundle.flow)
    for precision in {network_precision(torch.device("cpu")), torch.float32}:
        runtime = Runtime(bundle.flow, precision)
        assert torch.equal(runtime.quantize(runtime.decode(runtime.encode(images))), images)


def test_faces_drawn_at_random_are_faces_to_a_judge_that_knows_no_flow(bundle: Bundle) -> None:
    """It finds 0.84 of the validation crops, and found half of what standard priors gave."""
    drawn = bundle.flow.sample(48).permute(0, 2, 3, 1).contiguous().numpy()
    found = 0
    for pixels in drawn:
        photo = np.full((640, 640, 3), 128, np.uint8)
        photo[128:512, 128:512] = cv2.resize(pixels, (384, 384), interpolation=cv2.INTER_CUBIC)
        found += bool(faces.find(photo))
    assert found > 0.65 * len(drawn)


def test_what_lies_midway_between_two_faces_holds(bundle: Bundle, crop: Tensor) -> None:
    """The portrait and faces drawn at random."""
    program, flow = fastest(bundle.flow), bundle.flow
    latent = flow.flatten(program.encode(crop))
    drawn = flow.flatten(flow.sample_latent(16, seed=1)).double()
    mixes = program.decode(flow.unflatten((latent + drawn) / 2))
    assert attributes.bursts(mixes).float().mean() < 0.1


def test_a_smile_changes_the_mouth_more_than_the_forehead(bundle: Bundle, crop: Tensor) -> None:
    change = (edited(bundle, crop, smiling=1) - edited(bundle, crop)).abs()
    change = F.avg_pool2d(change, bundle.resolution // 64)
    mouth = change[..., 40:54, 20:44].mean()
    forehead = change[..., 2:14, 20:44].mean()
    assert mouth > 1.5 * forehead
    assert mouth > 4 / 255


@pytest.mark.parametrize("attribute", ["smiling", "eyes_open", "older", "masculine", "eyeglasses"])
def test_what_is_behind_the_face_stays(bundle: Bundle, crop: Tensor, attribute: str) -> None:
    for strength in (-1, 1):
        change = edited(bundle, crop, **{attribute: strength}) - edited(bundle, crop)
        cells = F.adaptive_avg_pool2d(change, 32).abs()
        edge = border(32)
        assert cells[..., edge].mean() < 6 / 255
        assert cells[..., ~edge].mean() > 2 / 255


def test_whatever_the_sliders_say_the_picture_holds(bundle: Bundle, crop: Tensor) -> None:
    """On a face outside the data: each slider at its ends, and all of them at once."""
    ends = [{d.name: end} for d in bundle.directions for end in (d.min, d.max)]
    ends += [{d.name: d.min for d in bundle.directions}, {d.name: d.max for d in bundle.directions}]
    ends += [{"smiling": -1.0, "older": 1.0}]
    for strengths in ends:
        assert not attributes.bursts(edited(bundle, crop, **strengths)).any(), strengths
