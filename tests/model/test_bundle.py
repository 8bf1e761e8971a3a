"""A model on disk."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import model
from model.bundle import FORMAT, Bundle, BundleError, Direction
from model.config import FlowConfig
from model.factors import FactorPrior
from model.flow import Flow
from model.grow import with_factors
from model.layers import Invertible1x1

Rewrite = Callable[[dict[str, Any], dict[str, Tensor]], object]

CARD = {
    "data": "48 pictures of nobody",
    "bits_per_dim": 3.25,
    "terms": {"licence": "CC0", "sources": ["Zürich", "日本"]},
}


@pytest.fixture
def bundle(flow: Flow) -> Bundle:
    vectors = torch.randn(2, flow.config.dimensions)
    directions = [
        Direction("smiling", "Smile", "Expression", vectors[0], 30, 18, 0.25, 0.5, -2.0, 1.5),
        Direction("older", "Age", "Look", vectors[1], 7, 41, -1.5, 0.75, -1.0, 1.0),
    ]
    return Bundle("toy", flow, directions, CARD)


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    bundle.save(path)
    return path


def rewrite(path: Path, change: Rewrite) -> None:
    """Save the bundle at `path` again with its header or its tensors changed."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["glow-editor"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, metadata={"glow-editor": json.dumps(header)})


class TestRoundTrip:
    def test_weights_are_exact(self, bundle: Bundle, path: Path) -> None:
        loaded = Bundle.load(path)
        assert loaded.flow.config == bundle.flow.config
        expected = bundle.flow.state_dict()
        assert loaded.flow.state_dict().keys() == expected.keys()
        for name, tensor in loaded.flow.state_dict().items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name]), name

    @pytest.mark.parametrize("permutation", ["shuffle", "reverse"])
    def test_a_fixed_order_of_channels_is_kept(self, permutation: str, tmp_path: Path) -> None:
        config = FlowConfig.from_dict(
            {"resolution": 8, "steps": [2], "hidden": [8], "permutation": permutation}
        )
        flow = Flow(config)
        for half in (False, True):
            Bundle("toy", flow).save(tmp_path / "toy.safetensors", half)
            loaded = Bundle.load(tmp_path / "toy.safetensors").flow
            orders = {k: v for k, v in flow.state_dict().items() if k.endswith("order")}
            assert orders
            assert all(torch.equal(loaded.state_dict()[k], v) for k, v in orders.items())

    def test_others_may_read_what_they_may_read_of_any_file(
        self, path: Path, tmp_path: Path
    ) -> None:
        """A server often runs as another user than who trained."""
        plain = tmp_path / "plain"
        plain.touch()
        assert path.stat().st_mode == plain.stat().st_mode

    def test_half_rounds_to_float16(self, bundle: Bundle, path: Path, tmp_path: Path) -> None:
        halved = tmp_path / "half.safetensors"
        bundle.save(halved, half=True)
        loaded = Bundle.load(halved)
        for name, tensor in bundle.flow.state_dict().items():
            assert loaded.flow.state_dict()[name].dtype == torch.float32
            assert torch.equal(loaded.flow.state_dict()[name], tensor.half().float()), name
        for ours, theirs in zip(bundle.directions, loaded.directions, strict=True):
            assert torch.equal(theirs.vector, ours.vector.half().float())
        assert halved.stat().st_size < 0.6 * path.stat().st_size

    @pytest.mark.parametrize("half", [False, True])
    def test_a_loaded_flow_is_exact(
        self, bundle: Bundle, tmp_path: Path, pictures: Tensor, half: bool
    ) -> None:
        bundle.save(tmp_path / "toy.safetensors", half)
        flow = Bundle.load(tmp_path / "toy.safetensors").flow
        assert torch.equal(flow.quantize(flow.decode(flow.encode(pictures))), pictures)

    def test_a_loaded_flow_does_not_learn(self, path: Path) -> None:
        flow = Bundle.load(path).flow
        assert not flow.training
        assert not any(parameter.requires_grad for parameter in flow.parameters())

    def test_directions_and_card_survive(self, bundle: Bundle, path: Path) -> None:
        loaded = Bundle.load(path)
        assert loaded.name == "toy"
        assert loaded.card == CARD
        assert len(loaded.directions) == 2
        for ours, theirs in zip(bundle.directions, loaded.directions, strict=True):
            assert torch.equal(theirs.vector, ours.vector)
            assert {**vars(theirs), "vector": 0} == {**vars(ours), "vector": 0}

    @pytest.mark.parametrize("half", [False, True])
    def test_what_a_direction_is_read_along_survives(
        self, bundle: Bundle, path: Path, half: bool
    ) -> None:
        smile, age = bundle.directions
        along = smile.vector + torch.randn_like(smile.vector)
        bundle.directions = [replace(smile, difference=along), age]
        bundle.save(path, half)
        read, plain = Bundle.load(path).directions
        assert read.difference is not None
        torch.testing.assert_close(read.difference, along.half().float() if half else along)
        latent = torch.randn(bundle.flow.config.dimensions)
        for ours, theirs in zip(bundle.directions, (read, plain), strict=True):
            assert theirs.reading(latent) == pytest.approx(ours.reading(latent), abs=0.02)

    def test_a_bundle_without_factors_is_one_for_older_versions(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["glow-editor"])
        assert not [name for name in header["config"] if "factor" in name]

    def test_a_bundle_without_differences_is_one_for_older_versions(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["glow-editor"])["format"] == 1

    def test_factors_survive_in_a_format_of_their_own(
        self, flow: Flow, tmp_path: Path, perturb: Callable[..., FactorPrior]
    ) -> None:
        factored = with_factors(flow, perturb(FactorPrior(flow.config.dimensions, 2)), 2)
        Bundle("toy", factored).save(tmp_path / "toy.safetensors")
        loaded = Bundle.load(tmp_path / "toy.safetensors").flow
        assert loaded.config == factored.config
        assert all(map(torch.equal, loaded.sample_latent(2), factored.sample_latent(2)))
        with safe_open(tmp_path / "toy.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["glow-editor"])["format"] == 3

    def test_the_jpeg_of_its_crops_survives(self, bundle: Bundle, path: Path) -> None:
        assert Bundle.load(path).crop_jpeg is None
        through_jpeg = replace(bundle, crop_jpeg=93)
        through_jpeg.save(path)
        assert Bundle.load(path).crop_jpeg == 93
        assert through_jpeg.identity != bundle.identity

    @pytest.mark.parametrize("quality", [0, 101, "x", 7.5])
    def test_a_jpeg_of_no_quality(self, path: Path, quality: object) -> None:
        rewrite(path, lambda header, _: header.update(crop_jpeg=quality))
        with pytest.raises(BundleError, match="1 to 100 is accepted"):
            Bundle.load(path)

    def test_an_older_bundle_knows_no_jpeg(self, path: Path) -> None:
        rewrite(path, lambda header, _: header.pop("crop_jpeg"))
        assert Bundle.load(path).crop_jpeg is None

    def test_without_directions_or_card(self, flow: Flow, tmp_path: Path) -> None:
        Bundle("bare", flow).save(tmp_path / "bare.safetensors")
        loaded = Bundle.load(tmp_path / "bare.safetensors")
        assert loaded.directions == []
        assert loaded.card == {}

    def test_saving_leaves_the_flow_as_it_was(self, bundle: Bundle, tmp_path: Path) -> None:
        before = {name: tensor.clone() for name, tensor in bundle.flow.state_dict().items()}
        bundle.save(tmp_path / "half.safetensors", half=True)
        for name, tensor in bundle.flow.state_dict().items():
            assert tensor.dtype == before[name].dtype
            assert torch.equal(tensor, before[name])
        assert all(parameter.requires_grad for parameter in bundle.flow.parameters())


class TestSaving:
    def test_leaves_nothing_else_behind(self, path: Path) -> None:
        assert list(path.parent.iterdir()) == [path]

    def test_replaces_the_file_in_one_step(self, bundle: Bundle, path: Path) -> None:
        """Who has opened the old file reads all of it, whatever is saved in the meantime."""
        with path.open("rb") as reader:
            old = path.read_bytes()
            replace(bundle, name="new", card={}).save(path)
            assert reader.read() == old
        assert Bundle.load(path).name == "new"

    def test_a_failure_leaves_the_old_file(self, bundle: Bundle, path: Path) -> None:
        (path.parent / f"{path.name}.part").mkdir()  # where the new file would be written first
        with pytest.raises(Exception, match="directory"):
            replace(bundle, name="new").save(path)
        assert Bundle.load(path).name == "toy"


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


class TestRefusal:
    """Every file that is not a whole bundle raises BundleError, with its name and the reason."""

    @staticmethod
    def refused(path: Path, reason: str) -> None:
        with pytest.raises(BundleError) as caught:
            Bundle.load(path)
        assert str(path) in str(caught.value)
        assert re.search(reason, str(caught.value)), str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere.safetensors", "No such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "cannot be read")

    @pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
    def test_truncated(self, path: Path, share: float) -> None:
        path.write_bytes(_cut(share)(path.read_bytes()))
        self.refused(path, "cannot be read")

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello", bytes(64), b"\xff" * 64]
    )
    def test_another_kind_of_file(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.refused(path, "cannot be read")

    def test_foreign_weights(self, path: Path) -> None:
        save_file({"weight": torch.zeros(2)}, path)
        self.refused(path, "no Glow Editor bundle")

    def test_foreign_weights_with_metadata(self, path: Path) -> None:
        save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
        self.refused(path, "no Glow Editor bundle")

    @pytest.mark.parametrize("header", ["", "{", "[]", "null", "3", '"text"', "{}"])
    def test_a_header_of_another_making(self, path: Path, header: str) -> None:
        save_file({"weight": torch.zeros(2)}, path, metadata={"glow-editor": header})
        self.refused(path, "header")

    @pytest.mark.parametrize("newer", [FORMAT + 1, 1000])
    def test_a_newer_format(self, path: Path, newer: int) -> None:
        rewrite(path, lambda header, _: header.update(format=newer))
        self.refused(path, f"bundle format {newer}; this version reads up to {FORMAT}")

    @pytest.mark.parametrize("key", ["format", "name", "config", "directions", "card"])
    def test_a_header_that_lacks_something(self, path: Path, key: str) -> None:
        rewrite(path, lambda header, _: header.pop(key))
        self.refused(path, key)

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"breadth": 3}, "breadth"),
            ({"steps": [2], "hidden": [8]}, "does not match its own config"),
            ({"steps": [2, 3]}, "does not match its own config"),
            ({"hidden": [8, 16]}, "does not match its own config"),
            ({"resolution": 16}, "does not match its own config"),
            ({"permutation": "shuffle"}, "does not match its own config"),
            ({"resolution": 9}, "9 cannot be halved"),
            ({"steps": 2}, "header"),
            ({"coupling": "quadratic"}, "quadratic"),
        ],
        ids=str,
    )
    def test_a_config_of_another_flow(
        self, path: Path, settings: dict[str, Any], reason: str
    ) -> None:
        rewrite(path, lambda header, _: header["config"].update(settings))
        self.refused(path, reason)

    def test_a_missing_tensor(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.pop("flow.prior.mean"))
        self.refused(path, "prior.mean")

    def test_an_unknown_tensor(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.update({"flow.posterior": torch.zeros(1)}))
        self.refused(path, "posterior")

    def test_fewer_vectors_than_directions(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.update(directions=tensors["directions"][:1]))
        self.refused(path, "direction")

    def test_no_vectors_at_all(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.pop("directions"))
        self.refused(path, "direction")

    def test_more_vectors_than_directions(self, path: Path) -> None:
        rewrite(path, lambda header, _: header["directions"].pop())
        self.refused(path, "direction")

    def test_vectors_of_another_size(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.update(directions=torch.zeros(2, 5)))
        self.refused(path, "direction")

    def test_differences_of_another_size(self, path: Path) -> None:
        rewrite(path, lambda _, tensors: tensors.update(differences=torch.zeros(1, 5)))
        self.refused(path, r"2 directions of 192 numbers, but differences of shape \(1, 5\)")

    def test_a_direction_that_lacks_something(self, path: Path) -> None:
        rewrite(path, lambda header, _: header["directions"][0].pop("origin"))
        self.refused(path, "origin")

    def test_the_config_of_an_older_version(self, bundle: Bundle, path: Path) -> None:
        """It lacks the settings that came later; a flow of that time is the same without them."""

        def age(header: dict[str, Any], _: dict[str, Tensor]) -> None:
            later = ("normalisation", "checkerboard", "depth", "residual", "flat", "prior")
            for setting in (*later, "classes"):
                header["config"].pop(setting)

        rewrite(path, age)
        loaded = Bundle.load(path)
        assert loaded.flow.config == bundle.flow.config
        assert loaded.identity == bundle.identity


class TestIdentity:
    def test_it_survives_a_file(self, bundle: Bundle, path: Path) -> None:
        loaded = Bundle.load(path)
        assert loaded.identity == bundle.identity
        assert loaded.revision == bundle.revision
        assert re.fullmatch(r"toy@[0-9a-f]{12}", loaded.identity)

    def test_other_weights_or_settings_are_another_model(self, bundle: Bundle) -> None:
        config = bundle.flow.config
        moved = Flow(config)
        moved.load_state_dict(bundle.flow.state_dict())
        with torch.no_grad():
            next(moved.parameters()).view(-1)[0] += 1e-6
        bounded = Flow(replace(config, log_scale_bound=config.log_scale_bound / 2))
        bounded.load_state_dict(bundle.flow.state_dict())
        flows = (bundle.flow, moved, bounded)
        assert len({Bundle("toy", flow).identity for flow in flows}) == 3
        assert Bundle("other", bundle.flow).identity != bundle.identity

    def test_a_prior_with_factors_leaves_latents_what_they_are(
        self, bundle: Bundle, perturb: Callable[..., FactorPrior]
    ) -> None:
        prior = perturb(FactorPrior(bundle.flow.config.dimensions, 2))
        factored = replace(bundle, flow=with_factors(bundle.flow, prior, 2))
        assert factored.identity == bundle.identity

    def test_half_is_another_model(self, bundle: Bundle, tmp_path: Path) -> None:
        bundle.save(tmp_path / "toy.safetensors", half=True)
        assert Bundle.load(tmp_path / "toy.safetensors").identity != bundle.identity

    def test_directions_make_another_revision_of_the_same_model(self, bundle: Bundle) -> None:
        fewer = Bundle("toy", bundle.flow, bundle.directions[:1])
        turned = [replace(bundle.directions[0], vector=-bundle.directions[0].vector)]
        assert fewer.identity == bundle.identity
        revisions = (bundle, fewer, Bundle("toy", bundle.flow, turned))
        assert len({b.revision for b in revisions}) == 3


class TestDirection:
    def test_reads_half_a_unit_on_either_side_of_its_origin(self) -> None:
        without, with_it = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 2.0, 4.0])
        vector = with_it - without
        middle = (without + with_it) / 2
        origin = (middle @ vector / vector.square().sum()).item()
        direction = Direction("a", "A", "Group", vector, 1, 1, origin, 1.0, -1.0, 1.0)
        assert math.isclose(direction.reading(without), -0.5, abs_tol=1e-6)
        assert math.isclose(direction.reading(with_it), 0.5, abs_tol=1e-6)
        moved = with_it + 0.75 * vector
        assert math.isclose(direction.reading(moved), 1.25, abs_tol=1e-6)

    def test_is_read_along_its_difference(self) -> None:
        vector, along = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 0.0, 3.0])
        direction = Direction("a", "A", "Group", vector, 1, 1, 0.5, 1.0, -1.0, 1.0, along)
        latent = torch.tensor([2.0, 7.0, 4.0])
        assert math.isclose(direction.reading(latent), 20 / 4 - 0.5)
        assert math.isclose(direction.reading(latent + 0.75 * vector), 20 / 4 + 0.25)


BUNDLES = sorted((Path(model.__file__).parent / "bundles").glob("*.safetensors"))


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
class TestShipped:
    """What comes with the library keeps its promise, after all its training."""

    @pytest.fixture
    def shipped(self, path: Path) -> Bundle:
        return Bundle.load(path)

    @pytest.mark.parametrize(
        "picture", ["black", "white", "checkerboard", "smooth", "noise", "noise of extremes"]
    )
    def test_any_picture_survives(self, shipped: Bundle, picture: str) -> None:
        flow = shipped.flow
        shape = (1, flow.config.channels, flow.config.resolution, flow.config.resolution)
        y, x = torch.meshgrid(*[torch.arange(shape[-1])] * 2, indexing="ij")
        images = {
            "black": torch.zeros(shape),
            "white": torch.full(shape, 255),
            "checkerboard": ((y + x) % 2 * 255).expand(shape),
            "smooth": ((y + x) * 255 // (y + x).max()).expand(shape),
            "noise": torch.randint(0, 256, shape),
            "noise of extremes": torch.randint(0, 2, shape) * 255,
        }[picture].to(torch.uint8)
        restored = flow.quantize(flow.decode(flow.encode(images)))
        assert (restored != images).sum().item() == 0

    def test_its_card_says_how_good_it_is(self, shipped: Bundle) -> None:
        assert 0 < shipped.card["bits_per_dim"] < 8

    def test_its_directions_can_be_followed_both_ways(self, shipped: Bundle) -> None:
        for direction in shipped.directions:
            assert direction.min < 0 < direction.max, direction.name
            assert direction.vector.isfinite().all()
            assert direction.vector.any()


@pytest.mark.parametrize("log_scale", [-40.0, 20.0, float("nan")])
def test_a_singular_convolution_is_refused(tmp_path: Path, log_scale: float) -> None:
    flow = Flow(FlowConfig(resolution=8, steps=(1,), hidden=(4,)))
    convolution = next(m for m in flow.modules() if isinstance(m, Invertible1x1))
    with torch.no_grad():
        convolution.log_scale[0] = log_scale
    Bundle("singular", flow).save(tmp_path / "singular.safetensors")
    with pytest.raises(BundleError, match=r"singular\.safetensors has a 1x1 convolution"):
        Bundle.load(tmp_path / "singular.safetensors")
