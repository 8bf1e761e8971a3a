"""Toy flows and pictures that the tests of the flow library share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model.config import PRESETS, FlowConfig
from model.flow import Flow

Module = TypeVar("Module", bound=nn.Module)
WritePictures = Callable[[Path, int], list[Path]]

TOY = FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8))
FAMILIES = {
    "realnvp": replace(
        PRESETS["realnvp32"],
        resolution=8,
        steps=(1, 1),
        hidden=(8, 8),
        checkerboard=(2, 1),
        depth=2,
    ),
    "nice": replace(PRESETS["nice32"], resolution=8, hidden=(16,)),
}
FACTORS = {"factors": replace(TOY, factors=3, factor_levels=1)}
TOYS = (
    {
        f"{coupling}-{permutation}": FlowConfig.from_dict(
            {**TOY.to_dict(), "coupling": coupling, "permutation": permutation}
        )
        for coupling, permutation in product(
            ("affine", "additive"), ("invertible_1x1", "shuffle", "reverse")
        )
    }
    | FACTORS
    | FAMILIES
)


def perturbed(module: Module, scale: float = 0.1, seed: int = 0) -> Module:
    """Move every parameter at random, so that what starts at zero takes part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def new_flow(config: FlowConfig, seed: int = 0) -> Flow:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Flow(config)


def smooth_pictures(count: int, size: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, size, size): colours that fade across each picture, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 3, 2, 2, generator=generator)
    fades = nn.functional.interpolate(corners, (size, size), mode="bilinear", align_corners=True)
    noise = torch.randint(0, 4, fades.shape, generator=generator)
    return (fades * 250 + noise).to(torch.uint8)


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Toys gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def perturb() -> Callable[..., nn.Module]:
    return perturbed


@pytest.fixture(scope="session", params=[*TOYS.values()], ids=[*TOYS])
def toy(request: pytest.FixtureRequest) -> Flow:
    """A tiny flow of each coupling, permutation and family, initialized and perturbed."""
    flow = new_flow(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow.initialize(smooth_pictures(32, request.param.resolution))
    return perturbed(flow).requires_grad_(False)


@pytest.fixture(params=[*FAMILIES.values()], ids=[*FAMILIES])
def family(request: pytest.FixtureRequest) -> FlowConfig:
    """A tiny config of each family besides Glow."""
    config = request.param
    assert isinstance(config, FlowConfig)
    return config


@pytest.fixture
def flow() -> Flow:
    """One tiny flow, a new one for every test."""
    return perturbed(new_flow(TOY))


@pytest.fixture(scope="session")
def pictures() -> Tensor:
    return smooth_pictures(48, TOY.resolution)


@pytest.fixture(scope="session")
def write_pictures() -> WritePictures:
    def write(folder: Path, count: int, size: int = 32) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:03d}.png" for i in range(count)]
        for path, picture in zip(paths, smooth_pictures(count, size), strict=True):
            Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy())).save(path)
        return paths

    return write
