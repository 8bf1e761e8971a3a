"""The runtime: the flow's own numbers, and exact in bfloat16 too."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import model.runtime
from app.settings import Settings
from model.bundle import Bundle
from model.config import FlowConfig
from model.flow import Flow
from model.runtime import BUCKETS, CHUNK, PATH_ERROR, POINTS, Program, Runtime, fastest, folds

SIZE = 16  # pixels: its first level is in the runtime's precision, its second in float32
GLOW = FlowConfig(resolution=SIZE * 2, steps=(2, 2), hidden=(8, 8))
CONFIGS = {
    "glow": GLOW,
    "additive": replace(GLOW, coupling="additive"),
    "reverse": replace(GLOW, permutation="reverse"),
    "shuffle": replace(GLOW, permutation="shuffle", normalisation="none"),
    "deep": replace(GLOW, depth=3, log_scale_bound=0.5),
    "one level": replace(GLOW, steps=(1,), hidden=(8,)),
    "uneven split": replace(GLOW, steps=(2, 2, 2), hidden=(8, 8, 8), kept=(3, 5)),
    "one colour": replace(GLOW, channels=1),
    "logistic": replace(GLOW, prior="logistic"),
    "four bits": replace(GLOW, bits=4),
    "classes": replace(GLOW, classes=3),
    "factors": replace(GLOW, factors=3, factor_levels=2),
}
PRECISIONS = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: 2e-3, torch.bfloat16: 0.05}  # a latent to that of the flow
no_bfloat16 = not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def new_flow(config: FlowConfig, perturb: Callable[..., Flow]) -> Flow:
    torch.manual_seed(1)
    flow = Flow(config)
    flow.initialize(pictures(config, 16))
    return perturb(flow).eval().requires_grad_(False)


def pictures(config: FlowConfig, count: int) -> Tensor:
    shape = (count, config.channels, config.resolution, config.resolution)
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 2**config.bits, shape, generator=generator).to(torch.uint8)


@pytest.fixture(params=PRECISIONS, ids=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest) -> torch.dtype:
    if request.param == torch.bfloat16 and no_bfloat16:
        pytest.skip("this processor has no bfloat16")
    return request.param


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def flow(request: pytest.FixtureRequest, perturb: Callable[..., Flow]) -> Flow:
    return new_flow(request.param, perturb)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.load(Settings.model_fields["bundle"].default)


@pytest.fixture(scope="module")
def glow(perturb: Callable[..., Flow]) -> Runtime:
    """In the precision of this machine."""
    torch.manual_seed(0)
    return Runtime(new_flow(GLOW, perturb))


@pytest.fixture(scope="module")
def images(shipped: Bundle) -> Tensor:
    return torch.cat([extremes(shipped.flow), shipped.flow.sample(4)])


def extremes(flow: Flow) -> Tensor:
    """Flat, striped, chequered and noisy pictures."""
    size, top = flow.config.resolution, flow.bins - 1
    generator = torch.Generator().manual_seed(0)
    board = torch.arange(size).add(torch.arange(size)[:, None]) % 2 * top
    shape = (flow.config.channels, size, size)
    return torch.stack(
        [
            torch.zeros(shape),
            torch.full(shape, top),
            board.expand(shape),
            (torch.arange(size) // 2 % 2 * top).expand(shape),
            torch.randint(0, top + 1, shape, generator=generator),
            torch.randint(0, 2, shape, generator=generator) * top,
        ]
    ).to(torch.uint8)


class TestSameNumbers:
    def test_latents(self, flow: Flow, precision: torch.dtype) -> None:
        images = pictures(flow.config, CHUNK + 1)
        for mine, its in zip(
            Runtime(flow, precision).encode(images), flow.encode(images), strict=True
        ):
            assert mine.dtype == its.dtype
            torch.testing.assert_close(mine, its, rtol=0, atol=CLOSE[precision] * its.abs().max())

    def test_pictures(self, flow: Flow, precision: torch.dtype) -> None:
        latent = flow.sample_latent(CHUNK + 1)
        mine, its = Runtime(flow, precision).decode(latent), flow.decode(latent)
        assert mine.dtype == its.dtype
        torch.testing.assert_close(mine, its, rtol=0, atol=CLOSE[precision] * its.abs().max())

    def test_density(self, flow: Flow, precision: torch.dtype) -> None:
        images = pictures(flow.config, CHUNK + 1)
        mine, its = (
            flow.log_density_of(*program(flow.dequantize(images.double(), 0.25)))
            for program in (Runtime(flow, precision), flow)
        )
        torch.testing.assert_close(mine, its, rtol=CLOSE[precision], atol=0)

    def test_labels(self, perturb: Callable[..., Flow], precision: torch.dtype) -> None:
        flow = new_flow(CONFIGS["classes"], perturb)
        runtime = Runtime(flow, precision)
        images = pictures(flow.config, CHUNK + 2)
        labels = torch.arange(len(images)) % 3
        latent = runtime.encode(images, labels)
        its = flow.encode(images, labels)[-1]
        atol = CLOSE[precision] * its.abs().max()
        torch.testing.assert_close(latent[-1], its, rtol=0, atol=atol)
        assert (latent[-1] - runtime.encode(images)[-1]).abs().max() > 0.01
        assert torch.equal(flow.quantize(runtime.decode(latent, labels)), images)
        mine, its = (
            flow.log_density_of(*program(flow.dequantize(images.double(), 0.25), labels))
            for program in (runtime, flow)
        )
        torch.testing.assert_close(mine, its, rtol=CLOSE[precision], atol=0)

    def test_an_image_in_any_batch(self, flow: Flow, precision: torch.dtype) -> None:
        """Encoded alone, decoded among others: its networks see the same to the bit, and a latent
        differs by the rounding of float64 alone."""
        runtime = Runtime(flow, precision)
        images = pictures(flow.config, 2 * CHUNK + 1)
        latent = runtime.encode(images)
        decoded = runtime.decode(latent)
        for i in (0, CHUNK, 2 * CHUNK):
            alone = runtime.encode(images[i : i + 1])
            for part, one in zip(latent, alone, strict=True):
                torch.testing.assert_close(part[i : i + 1], one, rtol=0, atol=1e-9)
            torch.testing.assert_close(decoded[i : i + 1], runtime.decode(alone), rtol=0, atol=1e-6)


class TestExactness:
    def test_extremes_survive(self, flow: Flow, precision: torch.dtype) -> None:
        runtime = Runtime(flow, precision)
        images = extremes(flow)
        latents = [runtime.encode(image[None]) for image in images]
        together = [torch.cat(parts) for parts in zip(*latents, strict=True)]
        assert torch.equal(flow.quantize(runtime.decode(together)), images)

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(array=arrays.arrays(np.uint8, (1, 3, SIZE * 2, SIZE * 2)))
    def test_any_image_survives(self, glow: Runtime, array: np.ndarray) -> None:
        images = torch.from_numpy(array)
        assert torch.equal(glow.flow.quantize(glow.decode(glow.encode(images))), images)

    def test_the_error_of_the_path_reaches_no_network(
        self, perturb: Callable[..., Flow], precision: torch.dtype
    ) -> None:
        """Of latents that are a rounding apart, pictures are no more than that apart."""
        flow = new_flow(GLOW, perturb)
        runtime = Runtime(flow, precision)
        images = pictures(GLOW, 32)
        latent = runtime.encode(images)
        back = runtime.decode([part + 1e-13 * torch.randn_like(part) for part in latent])
        torch.testing.assert_close(back, runtime.decode(latent), rtol=0, atol=1e-6)

    @pytest.mark.skipif(no_bfloat16, reason="this processor has no bfloat16")
    def test_an_image_near_a_tie_moves_within_its_bins(
        self, perturb: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flow = new_flow(GLOW, perturb)
        runtime = Runtime(flow, torch.bfloat16)
        images = pictures(GLOW, 32)
        monkeypatch.setattr(model.runtime, "PATH_ERROR", 100 * PATH_ERROR)
        latent = runtime.encode(images)
        within = runtime.decode(latent).double() * 256 - images
        points = within.mean(dim=(1, 2, 3))
        torch.testing.assert_close(
            within, points[:, None, None, None].expand_as(within), rtol=0, atol=1e-4
        )
        nearest = (points[:, None] - torch.tensor(POINTS)).abs().min(1)
        assert nearest.values.max() < 1e-4
        assert set(nearest.indices.tolist()) > {0}  # some have moved, some have not

    @pytest.mark.skipif(no_bfloat16, reason="this processor has no bfloat16")
    def test_an_image_near_a_tie_wherever_it_is_still_comes_back(
        self, perturb: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flow = new_flow(GLOW, perturb)
        runtime = Runtime(flow, torch.bfloat16)
        monkeypatch.setattr(model.runtime, "PATH_ERROR", 1e-6)
        images = pictures(GLOW, 4)
        assert torch.equal(flow.quantize(runtime.decode(runtime.encode(images))), images)


class TestShipped:
    def test_every_value_survives(self, shipped: Bundle, images: Tensor) -> None:
        runtime = Runtime(shipped.flow)
        latents = [runtime.encode(image[None]) for image in images]
        together = [torch.cat(parts) for parts in zip(*latents, strict=True)]
        assert torch.equal(shipped.flow.quantize(runtime.decode(together)), images)

    def test_edits_are_those_of_the_flow(self, shipped: Bundle, images: Tensor) -> None:
        flow = shipped.flow
        step = torch.stack([direction.vector for direction in shipped.directions[:4]])
        mine, its = (
            program.decode(flow.unflatten(flow.flatten(program.encode(images[-4:])) + step))
            for program in (Runtime(flow), flow)
        )
        assert (mine.clamp(0, 1) - its.clamp(0, 1)).abs().mean() * 256 < 0.35


class TestFamilies:
    def test_one_that_does_not_fold_serves_itself(self, family: FlowConfig) -> None:
        flow = Flow(family)
        assert not folds(flow)
        assert fastest(flow) is flow
        with pytest.raises(ValueError, match="do not fold"):
            Runtime(flow)

    def test_glow_does(self) -> None:
        assert isinstance(fastest(Flow(GLOW)), Runtime)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_by_measurement(perturb: Callable[..., Flow]) -> None:
    runtime = Runtime(new_flow(GLOW, perturb))
    assert runtime.set_threads() == torch.get_num_threads()


def test_no_more_threads_than_asked_for(
    perturb: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    best = Runtime(new_flow(GLOW, perturb)).set_threads(5)
    assert set(tried) == {1, 2, 4}
    assert tried[-1] == best


@pytest.mark.usefixtures("threads")
def test_threads_change_no_picture(flow: Flow, precision: torch.dtype) -> None:
    runtime = Runtime(flow, precision)
    images = pictures(flow.config, CHUNK)
    latent = runtime.encode(images)
    torch.set_num_threads(2)
    assert torch.equal(flow.quantize(runtime.decode(latent)), images)


def test_a_batch_runs_in_the_smallest_bucket_that_holds_it(
    perturb: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []

    class Unrecorded:
        """Stands for a CUDA graph where there is no CUDA."""

        def __init__(self, program: Program, *rest: object) -> None:
            recorded.append(rest[-1])
            self.program = program

        def __call__(self, inputs: list[Tensor], labels: Tensor | None) -> list[Tensor]:
            return self.program(inputs, labels)

    monkeypatch.setattr(model.runtime, "_Graph", Unrecorded)
    runtime = Runtime(new_flow(GLOW, perturb))
    for count in (3, 4, 5, 3, 64):
        latent = runtime.flow.sample_latent(count)
        with torch.inference_mode():
            runtime._replay(runtime._inverse, latent, None)
    assert recorded == [4, 8, 64]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestGraphs:
    def test_same_numbers_in_every_bucket(self, perturb: Callable[..., Flow]) -> None:
        flow = new_flow(GLOW, perturb).cuda()
        runtime = Runtime(flow)
        for count in (1, 3, BUCKETS[-1] + 1):
            images = pictures(GLOW, count).cuda()
            latent = runtime.encode(images)
            for mine, its in zip(latent, flow.encode(images), strict=True):
                torch.testing.assert_close(mine, its, rtol=0, atol=1e-3)
            assert torch.equal(flow.quantize(runtime.decode(latent)), images)
            again = runtime.encode(images.flip(0))  # replayed, on other images
            assert all(torch.equal(a.flip(0), b) for a, b in zip(again, latent, strict=True))
