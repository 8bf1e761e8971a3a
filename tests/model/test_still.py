"""Directions that leave the rest of a picture still, against Jacobians and least squares."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import FlowConfig
from model.flow import Flow
from model.skin import cheeks, skin_light
from model.still import (
    SKIN_WEIGHT,
    Response,
    balanced,
    light_moved,
    respond,
    stilled,
)

NUMBERS = 96  # of the last part of an 8x8 flow of two levels


@pytest.fixture
def flow() -> Flow:
    flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8))).requires_grad_(False)
    for parameter in flow.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return flow


def edge(side: int) -> Tensor:
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border


def test_the_response_is_that_of_decodes_jacobian(flow: Flow) -> None:
    faces = torch.randint(60, 200, (2, 3, 8, 8), dtype=torch.uint8)
    found = respond(flow, faces.repeat(400, 1, 1, 1), torch.zeros(1, 192), NUMBERS)
    border, face, rest, means = edge(8), 0.0, 0.0, 0.0
    for image in faces:
        latent = flow.flatten(flow.encode(image[None])).float()

        def decode(tail: Tensor, head: Tensor = latent[:, :-NUMBERS]) -> Tensor:
            return flow.inverse(flow.unflatten(torch.cat([head, tail], dim=1))) + 0.5

        def grey(tail: Tensor) -> tuple[Tensor, Tensor]:
            picture = decode(tail)
            return 255 * picture, skin_light(picture)

        tail = latent[:, -NUMBERS:]
        of_cells, of_skin = torch.autograd.functional.jacobian(grey, tail)
        cells = of_cells.reshape(3, 8, 8, NUMBERS).double()
        within, outside = (cells[:, here].reshape(-1, NUMBERS) for here in (~border, border))
        light = of_skin.reshape(2, NUMBERS).double()
        means += light / len(faces)
        face += within.T @ within / len(within) / len(faces)
        rest += (outside.T @ outside / len(outside) + SKIN_WEIGHT * light.T @ light) / len(faces)
    for form, exact in ((found.face, face), (found.rest, rest)):
        assert (form - exact).norm() < 0.1 * exact.norm()
        assert form.trace() == pytest.approx(exact.trace().item(), rel=0.03)
    assert (found.light - means).norm() < 0.02 * means.norm()


def test_faces_are_moved_along_the_directions(flow: Flow) -> None:
    faces = torch.randint(60, 200, (8, 3, 8, 8), dtype=torch.uint8)
    step = 0.1 * torch.randn(1, 192)
    still, forward, back, either = (
        respond(flow, faces, steps, NUMBERS).face
        for steps in (0 * step, step, -step, torch.cat([0 * step, step]))
    )
    assert len({form.trace().item() for form in (still, forward, back, either)}) == 4


def test_a_face_that_bursts_says_nothing(flow: Flow) -> None:
    """Of two directions one leads far out, and the other nowhere."""
    faces = torch.randint(60, 200, (64, 3, 8, 8), dtype=torch.uint8)
    nowhere, far = torch.zeros(1, 192), torch.full((1, 192), 1e6)
    near = respond(flow, faces, nowhere, NUMBERS)
    some = respond(flow, faces, torch.cat([nowhere, far]), NUMBERS)
    for ours, theirs in ((some.face, near.face), (some.rest, near.rest)):
        assert ours.trace() == pytest.approx(theirs.trace().item(), rel=0.2)
    with pytest.raises(ValueError, match="every face bursts"):
        respond(flow, faces, far, NUMBERS)


def test_is_the_nearest_by_least_squares() -> None:
    face, rest = torch.randn(2, 60, 20, dtype=torch.float64)
    vector = torch.randn(20, dtype=torch.float64)
    response = Response(face.T @ face, rest.T @ rest, torch.randn(2, 20, dtype=torch.float64))
    loading = response.face.diagonal().mean().sqrt() * torch.eye(20, dtype=torch.float64)
    rows = torch.cat([face, loading, 7**0.5 * rest])
    aims = torch.cat([face @ vector, loading @ vector, torch.zeros(60, dtype=torch.float64)])
    nearest = torch.from_numpy(np.linalg.lstsq(rows.numpy(), aims.numpy(), rcond=None)[0])
    nearest *= (face @ nearest) @ (face @ vector) / (face @ nearest).square().sum()
    found = stilled(vector, response, 7)
    torch.testing.assert_close(found, nearest)
    moved, before = (rest @ v for v in (found, vector))
    assert moved.norm() < 0.8 * before.norm()
    torch.testing.assert_close(stilled(vector, response, 0), vector)

    light = torch.tensor([3.0, -2.0], dtype=torch.float64)
    less = balanced(found, response, 7, light)
    torch.testing.assert_close(response.light @ (found - less), light)
    # of all that do so it is nearest: what keeps the light is, by the rows, at right angles to it
    *_, keeping = np.linalg.svd(response.light.numpy())
    kept = torch.from_numpy(keeping[2:])
    assert (rows @ kept.T).T @ (rows @ (found - less)) == pytest.approx(0, abs=1e-8)


def test_what_a_step_does_to_the_light_is_measured(flow: Flow) -> None:
    faces = torch.randint(60, 200, (40, 3, 8, 8), dtype=torch.uint8)
    step = 0.1 * torch.randn(192)
    latents = flow.flatten(flow.encode(faces))
    moved = flow.decode(flow.unflatten(latents + step))
    change = skin_light(moved) - skin_light((faces + 0.5) / 256)
    torch.testing.assert_close(
        light_moved(flow, faces, step), change.mean(1).double(), rtol=1e-4, atol=1e-4
    )


def test_a_direction_leaves_the_border_and_the_skin_still() -> None:
    """One that brightens a whole picture goes on to do so for what is neither."""
    flow = Flow(FlowConfig(resolution=16, steps=(1, 1), hidden=(4, 4))).requires_grad_(False)
    faces = torch.arange(90, 140, 5).to(torch.uint8)[:, None, None, None].expand(10, 3, 16, 16)
    latents = flow.flatten(flow.encode(faces))
    brighter = flow.flatten(flow.encode(faces + 40)) - latents
    vector = brighter.mean(0)
    response = respond(flow, faces.repeat(20, 1, 1, 1), vector[None].float(), len(vector))
    found = stilled(vector, response, 16)

    def movement(direction: Tensor) -> tuple[float, float, float]:
        before, after = (flow.decode(flow.unflatten(z)) for z in (latents, latents + direction))
        border = edge(16)
        mouth = F.pad(torch.ones(2, 4, dtype=torch.bool), (6, 6, 11, 3))
        moved = 255 * (after - before).abs()
        cheek = (cheeks(after) - cheeks(before)).abs().mean().item()
        return moved[..., border].mean().item(), cheek, moved[..., mouth].mean().item()

    assert movement(vector) == pytest.approx((40, 40, 40), abs=0.5)
    border, cheek, mouth = movement(found)
    assert border < 8
    assert cheek < 8
    assert mouth > 30
