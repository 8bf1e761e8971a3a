"""The multi-scale flow: exact both ways, with an exact density."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from model.config import FlowConfig
from model.flow import Flow
from model.layers import ActNorm

SIZE = 8

MINIMAL = FlowConfig(resolution=2, channels=1, bits=1, steps=(2,), hidden=(4,))  # 4 dimensions

uint8_images = arrays.arrays(np.uint8, (2, 3, SIZE, SIZE))
thorough = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def checkerboard(cell: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((y // cell + x // cell) % 2 * 255).to(torch.uint8).expand(1, 3, SIZE, SIZE)


ADVERSARIAL = {
    "black": torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8),
    "white": torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8),
    "red": torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].repeat(
        1, 1, SIZE, SIZE
    ),
    "checkerboard of pixels": checkerboard(1),
    "checkerboard of blocks": checkerboard(2),
    "noise": torch.randint(
        0, 256, (8, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8),
    "noise of extremes": torch.randint(
        0, 2, (8, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    * 255,
}


def restored(flow: Flow, images: Tensor) -> Tensor:
    return flow.quantize(flow.decode(flow.encode(images)))


def standard_prior(flow: Flow) -> torch.distributions.Distribution:
    """Of one number of a latent, as torch knows it."""
    if flow.config.prior == "gaussian":
        return torch.distributions.Normal(0.0, 1.0)
    uniform = torch.distributions.Uniform(torch.zeros(1).double(), torch.ones(1).double())
    logit = torch.distributions.SigmoidTransform().inv
    return torch.distributions.TransformedDistribution(uniform, [logit])


def log_prior(flow: Flow, latent: Tensor) -> Tensor:
    """Of one flat latent; where it has common factors, by the covariance that they give."""
    alone = flow.config.dimensions - flow.config.factor_dimensions
    log_prob: Tensor = standard_prior(flow).log_prob(latent[:alone]).sum()
    if flow.common:
        loadings, own = flow.common.loadings, (2 * flow.common.log_scale).exp().diag()
        together = torch.distributions.MultivariateNormal(
            flow.common.mean, loadings @ loadings.T + own
        )
        log_prob = log_prob + together.log_prob(latent[alone:])
    return log_prob


def tiny(perturb: Callable[..., Flow], scale: float = 0.1) -> Flow:
    return perturb(Flow(MINIMAL), scale=scale).double().requires_grad_(False)


class TestExactness:
    @thorough
    @given(array=uint8_images)
    def test_any_image_survives(self, toy: Flow, array: np.ndarray) -> None:
        images = torch.from_numpy(array)
        assert torch.equal(restored(toy, images), images)

    @pytest.mark.parametrize("images", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
    def test_adversarial_images_survive(self, toy: Flow, images: Tensor) -> None:
        assert torch.equal(restored(toy, images), images)

    @pytest.mark.parametrize("images", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
    def test_a_decoded_image_is_in_the_middle_of_its_bins(self, toy: Flow, images: Tensor) -> None:
        """Far from their edges, so that no rounding can push it over one."""
        middle = (images + 0.5) / 256
        torch.testing.assert_close(toy.decode(toy.encode(images)), middle, rtol=0, atol=0.1 / 256)

    def test_every_value_survives(self, toy: Flow) -> None:
        images = torch.arange(256).to(torch.uint8)[:, None, None, None].repeat(1, 3, SIZE, SIZE)
        assert torch.equal(restored(toy, images), images)

    @pytest.mark.parametrize("bits", [1, 2, 5, 7])
    def test_fewer_bits(self, bits: int, perturb: Callable[..., Flow]) -> None:
        flow = perturb(Flow(FlowConfig(resolution=SIZE, bits=bits, steps=(2, 2), hidden=(8, 8))))
        images = torch.randint(0, 2**bits, (8, 3, SIZE, SIZE)).to(torch.uint8)
        assert torch.equal(restored(flow, images), images)
        assert torch.equal(flow.quantize(torch.tensor([-1.0, 2.0])), torch.tensor([0, 2**bits - 1]))

    def test_latents_are_as_exact_as_images(self, toy: Flow) -> None:
        latent = toy.sample_latent(4, temperature=1.0)
        back, _ = toy(toy.inverse(latent))
        torch.testing.assert_close(back, latent, rtol=0, atol=2e-3)

    def test_encode_is_deterministic(self, toy: Flow, pictures: Tensor) -> None:
        first, second = toy.encode(pictures), toy.encode(pictures)
        assert all(map(torch.equal, first, second))

    def test_one_colour_channel(self, perturb: Callable[..., Flow]) -> None:
        config = FlowConfig(resolution=SIZE, channels=1, steps=(2, 2, 2), hidden=(8, 8, 8))
        images = torch.randint(0, 256, (4, 1, SIZE, SIZE)).to(torch.uint8)
        assert torch.equal(restored(perturb(Flow(config)), images), images)

    def test_autocast(self, toy: Flow, pictures: Tensor) -> None:
        """The latent stays in float64, whose rounding is too small to reach a network as another
        bfloat16 on the way back but by a rare chance: all but a few values are exact."""
        with torch.autocast("cpu", torch.bfloat16):
            latent = toy.encode(pictures)
            back = toy.decode(latent)
            log_prob = toy.log_prob(pictures)
        assert all(part.dtype == torch.float64 for part in latent)
        assert back.dtype == log_prob.dtype == torch.float32
        torch.testing.assert_close(back, (pictures + 0.5) / 256, rtol=0, atol=8 / 256)
        assert (toy.quantize(back) != pictures).float().mean() < 0.01


class TestDequantization:
    def test_bins_cover_the_range_evenly(self, flow: Flow) -> None:
        images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
        assert flow.dequantize(images, 0.0).flatten().tolist() == [-0.5, 255 / 256 - 0.5]
        assert flow.dequantize(images, 1.0).flatten().tolist() == [1 / 256 - 0.5, 0.5]

    def test_noise_stays_within_the_bin(self, flow: Flow, pictures: Tensor) -> None:
        noisy = flow.dequantize(pictures)
        assert torch.equal(flow.quantize(noisy + 0.5), pictures)
        offsets = (noisy + 0.5) * 256 - pictures
        assert offsets.mean().item() == pytest.approx(0.5, abs=0.02)
        assert offsets.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.02)

    def test_quantize_clamps(self, flow: Flow) -> None:
        floats = torch.tensor([-3.0, -1e-6, 0.0, 0.999 / 256, 1 / 256, 1.0, 1e30])
        assert flow.quantize(floats).tolist() == [0, 0, 0, 0, 1, 255, 255]


class TestDensity:
    @pytest.mark.parametrize("resolution", [4, 8])
    def test_agrees_with_the_jacobian(
        self, toy: Flow, resolution: int, perturb: Callable[..., Flow]
    ) -> None:
        """The density of a change of variables, from autograd's Jacobian and nothing of ours."""
        flow = perturb(Flow(replace(toy.config, resolution=resolution))).double()
        flow.requires_grad_(False)
        y = torch.rand(2, 3, resolution, resolution, dtype=torch.float64) - 0.5
        size = flow.config.dimensions
        for image, claimed in zip(y, flow.log_density(y), strict=True):
            latent = flow.flatten(flow(image[None])[0])[0]
            jacobian = torch.autograd.functional.jacobian(
                lambda flat, shape=image.shape: flow.flatten(flow(flat.view(1, *shape))[0])[0],
                image.flatten(),
                vectorize=True,
            )
            expected = (
                log_prior(flow, latent) + torch.linalg.slogdet(jacobian)[1] - size * math.log(256)
            )
            torch.testing.assert_close(claimed, expected)

    def test_integrates_to_one(self, perturb: Callable[..., Flow]) -> None:
        """Four dimensions: by the trapezium rule over a box that holds all but a sliver of it."""
        flow = tiny(perturb)
        side = torch.linspace(-6, 6, 23, dtype=torch.float64)
        volume = (side[1] - side[0]) ** 4
        y = torch.cartesian_prod(side, side, side, side).view(-1, 1, 2, 2)
        density = (flow.log_density(y) + flow.config.dimensions * math.log(flow.bins)).exp()
        assert (density.sum() * volume).item() == pytest.approx(1, abs=2e-3)

    def test_of_checkerboards_integrates_to_one(self, perturb: Callable[..., Flow]) -> None:
        config = replace(
            MINIMAL, permutation="reverse", steps=(1,), checkerboard=(2,), residual=True
        )
        flow = perturb(Flow(config)).double().requires_grad_(False)
        side = torch.linspace(-6, 6, 19, dtype=torch.float64)
        y = torch.cartesian_prod(side, side, side, side).view(-1, 1, 2, 2)
        density = (flow.log_density(y) + flow.config.dimensions * math.log(flow.bins)).exp()
        mass = density.sum() * (side[1] - side[0]) ** 4
        assert mass.item() == pytest.approx(1, abs=2e-3)

    @pytest.mark.parametrize("coupling", ["additive", "affine"])
    @pytest.mark.parametrize("prior", ["gaussian", "logistic"])
    def test_of_a_flat_flow_integrates_to_one(
        self, coupling: str, prior: str, perturb: Callable[..., Flow]
    ) -> None:
        """Two dimensions, one pixel of two channels."""
        config = FlowConfig.from_dict(
            {
                **MINIMAL.to_dict(),
                "resolution": 1,
                "channels": 2,
                "coupling": coupling,
                "permutation": "reverse",
                "flat": True,
                "prior": prior,
            }
        )
        flow = perturb(Flow(config), scale=0.2).double().requires_grad_(False)
        side = torch.linspace(-30, 30, 301, dtype=torch.float64)
        y = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
        density = (flow.log_density(y) + 2 * math.log(flow.bins)).exp()
        mass = density.sum() * (side[1] - side[0]) ** 2
        assert mass.item() == pytest.approx(1, abs=1e-3)

    def test_log_prob_bounds_the_probability_of_the_bin(self, perturb: Callable[..., Flow]) -> None:
        """log P(x) = log E_u p(x + u) is above the mean of one-sample estimates E_u log p(x + u),
        by Jensen's inequality, and by no less than the exact gap."""
        flow = tiny(perturb, scale=0.4)
        image = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.uint8)
        middles = (torch.arange(12, dtype=torch.float64) + 0.5) / 12
        noise = torch.cartesian_prod(*[middles] * 4).view(-1, 1, 2, 2)
        within = flow.log_density(flow.dequantize(image, noise))
        log_probability = within.exp().mean().log().item()
        bound = within.mean().item()

        draws = 4000
        estimates = flow.log_prob(
            image.expand(draws, 1, 2, 2), generator=torch.Generator().manual_seed(0)
        )
        error = estimates.std().item() / math.sqrt(draws)
        assert estimates.mean().item() == pytest.approx(bound, abs=4 * error)
        assert estimates.mean().item() + 4 * error < log_probability

    @pytest.mark.parametrize("lean", [0.5, 1.0])
    def test_noise_that_leans_bounds_it_more_tightly(
        self, perturb: Callable[..., Flow], lean: float
    ) -> None:
        flow = tiny(perturb, scale=0.4)
        image = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.uint8)
        middles = (torch.arange(24, dtype=torch.float64) + 0.5) / 24
        noise = torch.cartesian_prod(*[middles] * 4).view(-1, 1, 2, 2)
        probability = flow.log_density(flow.dequantize(image, noise)).exp().mean().item()

        many = image.expand(40_000, 1, 2, 2)
        plain, leaning = (
            flow.log_prob(many, torch.Generator().manual_seed(0), lean=share) for share in (0, lean)
        )
        weights = leaning.exp()  # p / q under q: their mean is P(x) whatever q is
        error = weights.std().item() / math.sqrt(len(many))
        assert weights.mean().item() == pytest.approx(probability, abs=4 * error)
        assert plain.mean() < leaning.mean() < math.log(probability)
        assert leaning.std() < plain.std()

    def test_probabilities_of_all_images_sum_to_the_mass_within_range(
        self, perturb: Callable[..., Flow]
    ) -> None:
        flow = tiny(perturb, scale=0.4)
        middles = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
        noise = torch.cartesian_prod(*[middles] * 4).view(-1, 1, 2, 2)
        bins = torch.tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.uint8)
        images = bins.view(-1, 1, 1, 2, 2)
        probabilities = torch.stack(
            [flow.log_density(flow.dequantize(image, noise)).exp().mean() for image in images]
        )
        everywhere = flow.dequantize(
            torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
            2
            * torch.cartesian_prod(*[torch.cat([middles, middles + 1]) / 2] * 4).view(-1, 1, 2, 2),
        )
        within_range = (flow.log_density(everywhere) + 4 * math.log(2)).exp().mean()
        assert probabilities.sum().item() == pytest.approx(within_range.item(), rel=1e-6)
        assert probabilities.sum() < 1

    def test_log_prob_repeats_with_its_generator(self, flow: Flow, pictures: Tensor) -> None:
        first = flow.log_prob(pictures, torch.Generator().manual_seed(5))
        assert torch.equal(first, flow.log_prob(pictures, torch.Generator().manual_seed(5)))
        assert not torch.equal(first, flow.log_prob(pictures, torch.Generator().manual_seed(6)))

    def test_bits_per_dim_of_the_uniform_distribution(self, flow: Flow) -> None:
        """256 equal values cost 8 bits each."""
        log_prob = torch.tensor([-flow.config.dimensions * math.log(256)])
        assert flow.bits_per_dim(log_prob).item() == pytest.approx(8)


class TestLatent:
    def test_parts_have_the_shapes_of_the_config(self, toy: Flow, pictures: Tensor) -> None:
        latent = toy.encode(pictures)
        assert [part.shape for part in latent] == [
            (len(pictures), *shape) for shape in toy.config.part_shapes
        ]

    def test_flatten_and_unflatten_undo_each_other(self, toy: Flow, pictures: Tensor) -> None:
        latent = toy.encode(pictures)
        flat = toy.flatten(latent)
        assert flat.shape == (len(pictures), toy.config.dimensions)
        assert all(map(torch.equal, toy.unflatten(flat), latent))
        assert torch.equal(toy.flatten(toy.unflatten(flat)), flat)

    def test_flat_latents_hold_the_levels_in_order(self, toy: Flow, pictures: Tensor) -> None:
        latent = toy.encode(pictures)
        assert torch.equal(toy.flatten(latent)[:, : latent[0][0].numel()], latent[0].flatten(1))

    def test_a_flat_latent_of_the_wrong_size_is_refused(self, toy: Flow) -> None:
        with pytest.raises(RuntimeError):
            toy.unflatten(torch.zeros(1, toy.config.dimensions + 1))


class TestSample:
    def test_repeats_with_its_seed(self, toy: Flow) -> None:
        first = toy.sample(4, temperature=1.0, seed=3)
        torch.rand(1)  # the global generator has no part in it
        assert torch.equal(first, toy.sample(4, temperature=1.0, seed=3))
        assert not torch.equal(first, toy.sample(4, temperature=1.0, seed=4))

    def test_is_pictures(self, toy: Flow) -> None:
        images = toy.sample(5)
        assert images.dtype == torch.uint8
        assert images.shape == (5, 3, SIZE, SIZE)
        assert len(images.unique(dim=0)) == 5

    def test_at_temperature_zero_there_is_one_picture(self, toy: Flow) -> None:
        images = torch.cat([toy.sample(3, temperature=0.0, seed=seed) for seed in (0, 1)])
        assert len(images.unique(dim=0)) == 1

    @pytest.mark.parametrize("temperature", [0.5, 1.0])
    def test_latents_have_the_deviation_of_the_temperature(
        self, flow: Flow, temperature: float
    ) -> None:
        flat = flow.flatten(flow.sample_latent(100, temperature))
        assert flat.std().item() == pytest.approx(temperature, rel=0.02)
        assert flat.mean().item() == pytest.approx(0, abs=0.02)

    def test_logistic_latents_are_logistic(self, family: FlowConfig) -> None:
        """By the quartiles and the tails of the distribution, which the temperature scales."""
        flow = Flow(replace(family, prior="logistic"))
        for temperature in (0.5, 1.0):
            flat = flow.flatten(flow.sample_latent(400, temperature)) / temperature
            assert flat.isfinite().all()
            for share in (0.01, 0.25, 0.5, 0.75, 0.99):
                below = (flat < math.log(share / (1 - share))).float().mean().item()
                assert below == pytest.approx(share, abs=0.005)

    def test_latents_of_a_seed_are_the_same_in_every_precision(self, flow: Flow) -> None:
        single = flow.sample_latent(2, seed=1)
        double = flow.double().sample_latent(2, seed=1)
        assert all(part.dtype == torch.float64 for part in double)
        assert all(torch.equal(a.double(), b) for a, b in zip(single, double, strict=True))


class TestInitialize:
    def test_scales_every_activation_of_every_level(self, pictures: Tensor) -> None:
        flow = Flow(FlowConfig(resolution=SIZE, steps=(2, 2, 2), hidden=(8, 8, 8)))
        flow.initialize(pictures)
        seen: list[Tensor] = []
        for module in flow.modules():
            if isinstance(module, ActNorm):
                module.register_forward_hook(lambda _module, _input, output: seen.append(output[0]))
        flow.encode(pictures)
        assert len(seen) == 6
        for y in seen:
            assert y.mean(dim=(0, 2, 3)).abs().max() < 0.05
            torch.testing.assert_close(
                y.var(dim=(0, 2, 3)), torch.ones(y.shape[1]).double(), rtol=0.1, atol=0
            )

    def test_makes_the_pictures_likelier(self, pictures: Tensor) -> None:
        flow = Flow(FlowConfig(resolution=SIZE, steps=(2, 2), hidden=(8, 8)))
        before = flow.log_prob(pictures).mean()
        flow.initialize(pictures)
        assert flow.log_prob(pictures).mean() > before

    def test_leaves_no_gradient(self, flow: Flow, pictures: Tensor) -> None:
        flow.initialize(pictures)
        assert all(p.grad is None and p.is_leaf and p.requires_grad for p in flow.parameters())
