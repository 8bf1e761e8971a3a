"""A prior of common factors: the Gaussian it says it is, found in latents where there is one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

import model.__main__
from model.__main__ import app
from model.bundle import Bundle
from model.config import FlowConfig
from model.data import Images
from model.factors import FactorPrior, fitted, shrunk
from model.flow import Flow
from model.grow import with_factors, without_factors
from model.train import TrainConfig, Trainer
from tests.helpers import unframed


def drawn(prior: FactorPrior, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = prior.loadings.shape
    return prior.of_standard(
        *(torch.randn(count, width, generator=generator) for width in shape)
    ).detach()


def of_light_and_pose(numbers: int = 60) -> FactorPrior:
    """Two factors, each of many numbers, of scales and means of their own."""
    generator = torch.Generator().manual_seed(0)
    prior = FactorPrior(numbers, 2)
    for parameter in prior.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=generator)
    prior.loadings.data *= prior.log_scale.data.exp()[:, None]
    return prior


class TestFactorPrior:
    def test_what_it_draws_is_of_its_density(self) -> None:
        """By the linear map from the standard Gaussian, and torch's Gaussian of any covariance."""
        prior = of_light_and_pose(7).double().requires_grad_(False)
        standard = torch.eye(9, dtype=torch.float64)
        linear = prior.of_standard(standard[:, :7], standard[:, 7:]) - prior.mean
        oracle = MultivariateNormal(prior.mean, linear.T @ linear)
        z = 3 * torch.randn(5, 7, dtype=torch.float64)
        mine = prior.density(torch.float64).log_prob(z)
        torch.testing.assert_close(mine, oracle.log_prob(z))

    def test_its_density_is_in_the_precision_that_is_asked(self) -> None:
        """Within autocast, too, whose products would round it to whole nats."""
        prior = of_light_and_pose()
        z = drawn(prior, 4)
        expected = prior.density(torch.float64).log_prob(z.double())
        with torch.autocast("cpu", torch.bfloat16):
            found = prior.density(torch.float32).log_prob(z)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


class TestFitted:
    def test_finds_the_gaussian_of_latents(self) -> None:
        """As likely as by the truth, but for what two thousand images leave open."""
        truth = of_light_and_pose()
        truth.loadings.data *= 2
        found = fitted(drawn(truth, 2000), most=20)
        assert found.loadings.shape == (60, 2)
        new = drawn(truth, 4000, seed=1)
        mine, its = (
            prior.density(torch.float32).log_prob(new).mean().item() for prior in (found, truth)
        )
        assert its - 0.1 < mine < its + 0.05
        alone = torch.distributions.Normal(new.mean(0), new.std(0)).log_prob(new).sum(1).mean()
        assert mine > alone + 10

    def test_claims_what_new_latents_vary_by(self) -> None:
        """Where there are more numbers than images, along each factor."""
        truth = of_light_and_pose(900)
        truth.loadings.data /= 8
        found = fitted(drawn(truth, 600), most=20)
        assert found.loadings.shape == (900, 2)
        scaled = (found.loadings / found.log_scale.exp()[:, None]).detach()
        new = (drawn(truth, 2000, seed=1) - found.mean.detach()) / found.log_scale.detach().exp()
        along = torch.linalg.qr(scaled).Q
        claimed = (along.T @ scaled).square().sum(1) + 1
        torch.testing.assert_close((new @ along).var(0), claimed, rtol=0.15, atol=0)

    def test_a_number_that_factors_alone_move_keeps_a_twentieth_of_its_own(self) -> None:
        z = drawn(of_light_and_pose(), 2000)
        z[:, 7] = z[:, 5] = z[:, 9]
        deviation = z[:, 7].std().item()
        own = fitted(z, most=20).log_scale[7].exp().item()
        assert own > 0.99 * 0.05**0.5 * deviation

    def test_has_no_more_factors_than_are_asked_for(self) -> None:
        assert fitted(drawn(of_light_and_pose(), 2000), most=1).loadings.shape == (60, 1)

    def test_a_number_that_never_varies(self) -> None:
        z = drawn(of_light_and_pose(), 500)
        z[:, 3] = 0.5
        prior = fitted(z, most=20)
        assert prior.mean[3].item() == 0.5
        assert all(parameter.isfinite().all() for parameter in prior.parameters())

    def test_independent_numbers_have_no_factors(self) -> None:
        with pytest.raises(ValueError, match=r"no factor stands out .* 500 latents of 200 numbers"):
            fitted(torch.randn(500, 200), most=20)

    def test_is_the_same_each_time_and_leaves_the_random_numbers_alone(self) -> None:
        torch.manual_seed(5)
        first = fitted(drawn(of_light_and_pose(), 500), most=20)
        after = torch.rand(1)
        second = fitted(drawn(of_light_and_pose(), 500), most=20)
        assert torch.equal(first.loadings, second.loadings)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(1), after)


class TestShrunk:
    def test_is_what_new_images_vary_along_what_was_found(self) -> None:
        """Fewer images than numbers, where plain components claim over twice what is there."""
        numbers, images, spikes = 1500, 1000, torch.tensor([12.0, 7.0, 4.0, 3.0])
        generator = torch.Generator().manual_seed(0)
        scale = torch.ones(numbers)
        scale[:4] = spikes.sqrt()
        z = torch.randn(images, numbers, generator=generator) * scale
        _, singular, components = torch.linalg.svd(z, full_matrices=False)
        found = singular.square() / images
        truth = (components.square() * scale.square()).sum(1)  # along each component
        mine = shrunk(found, numbers / images)
        assert len(mine) == 4
        torch.testing.assert_close(mine, truth[:4], rtol=0.15, atol=0)
        assert (found[:4] > 1.15 * truth[:4]).all()

    def test_of_chance_nothing_is_left(self) -> None:
        singular = torch.linalg.svdvals(torch.randn(400, 300))
        assert not len(shrunk(0.98 * singular.square() / 400, 300 / 400))

    def test_many_images_need_no_shrinking(self) -> None:
        variances = torch.tensor([9.0, 4.0, 2.0])
        torch.testing.assert_close(shrunk(variances, 1e-6), variances, rtol=1e-3, atol=0)


class TestWithFactors:
    @pytest.fixture
    def plain(self, perturb: Callable[..., Flow]) -> Flow:
        config = FlowConfig(resolution=8, steps=(2, 2, 2), hidden=(8, 8, 8))
        return perturb(Flow(config)).requires_grad_(False)

    def test_all_but_the_likelihood_stays(self, plain: Flow, pictures: Tensor) -> None:
        prior = of_light_and_pose(96)
        flow = with_factors(plain, prior, levels=2)
        assert (flow.config.factors, flow.config.factor_levels) == (2, 2)
        for mine, its in zip(flow.encode(pictures), plain.encode(pictures), strict=True):
            assert torch.equal(mine, its)
        y = plain.dequantize(pictures, 0.5)
        latent, log_det = plain(y)
        own, together = latent[0].flatten(1), flow.flatten(latent[1:])
        expected = (
            torch.distributions.Normal(0, 1).log_prob(own).sum(1)
            + prior.density(torch.float32).log_prob(together)
            + log_det
            - 192 * math.log(256)
        )
        torch.testing.assert_close(flow.log_density(y), expected)
        assert (flow.log_density(y) - plain.log_density(y)).abs().min() > 1

    def test_the_likelihood_is_the_same_within_autocast(
        self, plain: Flow, pictures: Tensor
    ) -> None:
        flow = with_factors(plain, of_light_and_pose(96), levels=2)
        latent, log_det = plain(plain.dequantize(pictures, 0.5))
        expected = flow.log_density_of(latent, log_det)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(flow.log_density_of(latent, log_det), expected)

    @pytest.mark.parametrize("learns", [False, True])
    def test_it_learns_as_the_other_did(self, plain: Flow, learns: bool) -> None:
        plain.train(learns).requires_grad_(learns)
        fitted_one = with_factors(plain, of_light_and_pose(96), levels=2)
        for flow in (fitted_one, without_factors(fitted_one)):
            assert flow.training == learns
            assert all(parameter.requires_grad == learns for parameter in flow.parameters())

    def test_and_back(self, plain: Flow, pictures: Tensor) -> None:
        fitted_twice = with_factors(
            with_factors(plain, of_light_and_pose(96), 2), FactorPrior(192, 1), 3
        )
        assert fitted_twice.config.factors == 1
        back = without_factors(fitted_twice)
        assert back.config == plain.config
        y = plain.dequantize(pictures, 0.5)
        assert torch.equal(back.log_density(y), plain.log_density(y))

    def test_draws_vary_together_in_the_parts_of_its_levels_alone(self, plain: Flow) -> None:
        prior = FactorPrior(96, 1)
        with torch.no_grad():
            prior.mean.fill_(1)
            prior.loadings.fill_(2)
            prior.log_scale.fill_(-20)
        flow = with_factors(plain, prior, levels=2)
        own, *together = flow.sample_latent(50, temperature=0.5)
        assert torch.equal(own[0], plain.sample_latent(50, temperature=0.5)[0][0])
        shared = (flow.flatten(together) - 1) / 2
        torch.testing.assert_close(shared, shared[:, :1].expand_as(shared))
        assert shared[:, 0].std().item() == pytest.approx(0.5, rel=0.3)

    def test_draws_deviate_by_the_temperature(self, plain: Flow) -> None:
        prior = of_light_and_pose(96)
        flow = with_factors(plain, prior, levels=2)
        drawn_ones = flow.flatten(flow.sample_latent(4000, temperature=0.5)[1:]) - prior.mean
        covariance = prior.loadings @ prior.loadings.T + (2 * prior.log_scale).exp().diag()
        expected = 0.5 * covariance.diagonal().sqrt()
        torch.testing.assert_close(drawn_ones.std(0), expected, rtol=0.08, atol=0)

    def test_a_draw_hangs_on_the_seed_and_not_on_how_many_there_are(self, plain: Flow) -> None:
        flow = with_factors(plain, of_light_and_pose(96), levels=2)
        one, four = (flow.flatten(flow.sample_latent(count, seed=7))[0] for count in (1, 4))
        torch.testing.assert_close(one, four)


class TestCommand:
    @pytest.fixture
    def trained(
        self, tmp_path: Path, write_pictures: Callable[[Path, int, int], object]
    ) -> tuple[Path, list[str]]:
        """A flow of a few steps, and the options that name it and its pictures."""
        write_pictures(tmp_path / "faces" / "train", 64, 8)
        write_pictures(tmp_path / "faces" / "val", 16, 8)
        images = Images.find(tmp_path / "faces" / "train", 8, "train", tmp_path / "faces" / "val")
        torch.manual_seed(0)
        flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8)))
        trainer = Trainer(flow, images.load(), TrainConfig(steps=30, batch=16))
        trainer.initialize()
        for _ in range(30):
            trainer.train_step()
        path = tmp_path / "toy.safetensors"
        Bundle("toy", trainer.averaged, card={"data": "fades"}).save(path)
        faces = [str(tmp_path / "faces" / split) for split in ("train", "val")]
        options = ["prior", "--bundle", str(path), "--data", faces[0], "--validation", faces[1]]
        return path, options

    def test_makes_the_images_likelier(self, trained: tuple[Path, list[str]]) -> None:
        path, options = trained
        plain = Bundle.load(path)
        result = CliRunner().invoke(app, options, catch_exceptions=False)
        bundle = Bundle.load(path)
        factors = bundle.flow.config.factors
        assert factors > 0
        assert bundle.flow.config.factor_levels == 2
        first, second = (
            float(number)
            for number in result.output.split("bits/dim")[1].replace(" to ", " ").split()
        )
        assert f"{factors} factors: validation bits/dim" in result.output
        assert second < first - 0.05
        assert bundle.card == plain.card | {
            "bits_per_dim": second,
            "prior": {"levels": 2, "factors": factors, "latents": 128},
        }
        assert path.with_suffix(".png").exists()
        assert torch.equal(
            without_factors(bundle.flow).prior.mean, plain.flow.prior.mean
        )  # and again, it begins anew
        again = CliRunner().invoke(app, [*options, "--factors", "1"], catch_exceptions=False)
        assert f"1 factors: validation bits/dim {first:.4f}" in again.output

    def test_is_fitted_to_dequantized_images_and_mirrored_ones(
        self, trained: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, options = trained
        seen = []

        def fit(latents: Tensor, most: int) -> FactorPrior:
            seen.append(latents.clone())
            return fitted(latents, most)

        monkeypatch.setattr(model.__main__, "fit_prior", fit)
        CliRunner().invoke(app, options, catch_exceptions=False)
        (latents,) = seen
        flow = Bundle.load(path).flow
        bins = flow.bins * (flow.decode(flow.unflatten(latents)))
        noise = bins.frac()
        assert noise.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.05)
        assert noise.mean().item() == pytest.approx(0.5, abs=0.02)
        images = Images.find(
            path.parent / "faces" / "train", 8, "train", path.parent / "faces" / "val"
        ).load()
        expected = torch.cat([images, images.flip(-1)]).flatten(1)
        found = flow.quantize(bins / flow.bins).flatten(1)
        near = (found[:, None].int() - expected[None].int()).abs().amax(2) <= 1
        assert near.any(0).all()
        assert near.any(1).all()

    def test_of_the_last_levels_elsewhere(
        self, trained: tuple[Path, list[str]], tmp_path: Path
    ) -> None:
        path, options = trained
        before, out = path.read_bytes(), tmp_path / "other.safetensors"
        CliRunner().invoke(
            app, [*options, "--levels", "1", "--half", "--out", str(out)], catch_exceptions=False
        )
        assert path.read_bytes() == before
        flow = Bundle.load(out).flow
        assert flow.config.factor_levels == 1
        assert flow.common is not None
        assert torch.equal(flow.common.loadings.half().float(), flow.common.loadings)

    @pytest.mark.parametrize(
        ("config", "more", "words"),
        [
            ({}, ["--levels", "3"], "the levels no more than 2"),
            ({"prior": "logistic"}, [], "a gaussian prior, and one without classes"),
            ({"classes": 2}, [], "a gaussian prior, and one without classes"),
        ],
    )
    def test_what_cannot_be_says_why(
        self,
        trained: tuple[Path, list[str]],
        config: dict[str, object],
        more: list[str],
        words: str,
        perturb: Callable[..., Flow],
    ) -> None:
        path, options = trained
        if config:
            flow = Flow(FlowConfig(resolution=8, steps=(2, 2), hidden=(8, 8), **config))  # type: ignore[arg-type]
            Bundle("toy", perturb(flow)).save(path)
        result = CliRunner().invoke(app, [*options, *more])
        assert result.exit_code == 2
        assert words in unframed(result.output)
