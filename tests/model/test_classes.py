"""A class-conditional flow: a prior per class, and a head that tells the classes apart."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from model.__main__ import app
from model.bundle import Bundle
from model.config import PRESETS, FlowConfig
from model.flow import Flow
from model.train import TrainConfig, Trainer

CLASSES = 3
TOY = FlowConfig(resolution=8, steps=(1, 1), hidden=(8, 8))
CONFIGS = {
    "glow": replace(TOY, classes=CLASSES),
    "nice": replace(
        PRESETS["nice32"], resolution=8, steps=(2,), hidden=(8,), depth=1, classes=CLASSES
    ),
}


@pytest.fixture(params=CONFIGS)
def flow(request: pytest.FixtureRequest, perturb: Callable[..., Flow]) -> Flow:
    return perturb(Flow(CONFIGS[request.param]))


@pytest.fixture
def labels(pictures: Tensor) -> Tensor:
    return torch.arange(len(pictures)) % CLASSES


def test_decode_undoes_encode_of_each_class(flow: Flow, pictures: Tensor, labels: Tensor) -> None:
    noise = torch.randint(0, 256, pictures.shape).to(torch.uint8)
    for images in (pictures, noise):
        decoded = flow.decode(flow.encode(images, labels), labels)
        assert torch.equal(flow.quantize(decoded), images)


def test_log_density_of_a_class_agrees_with_the_jacobian(
    flow: Flow, perturb: Callable[..., Flow]
) -> None:
    flow = perturb(Flow(replace(flow.config, resolution=4))).double().requires_grad_(False)
    y = torch.rand(CLASSES, 3, 4, 4, dtype=torch.float64) - 0.5
    labels = torch.arange(CLASSES)
    for image, label, claimed in zip(y, labels, flow.log_density(y, labels), strict=True):
        latent, _ = flow(image[None], label[None])
        zero = torch.zeros(1, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(
            lambda flat, label=label: flow.flatten(flow(flat.view(1, 3, 4, 4), label[None])[0])[0],
            image.flatten(),
            vectorize=True,
        )
        log_det = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(claimed[None], flow.log_density_of(latent, zero + log_det))


def test_without_labels_there_is_no_class(pictures: Tensor) -> None:
    torch.manual_seed(3)
    plain = Flow(TOY)
    conditional = Flow(CONFIGS["glow"])
    missing, unexpected = conditional.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"prior", "classifier"}
    assert not unexpected
    torch.nn.init.normal_(conditional.prior.class_mean)
    for ours, theirs in zip(conditional.encode(pictures), plain.encode(pictures), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(conditional.sample(2, seed=1), plain.sample(2, seed=1))


def test_samples_differ_by_class(flow: Flow) -> None:
    first, second = (flow.sample(2, seed=1, labels=torch.tensor([i, i])) for i in (0, 1))
    assert not torch.equal(first, second)


def test_log_prob_takes_labels(flow: Flow, pictures: Tensor, labels: Tensor) -> None:
    given = [
        flow.log_prob(pictures, torch.Generator().manual_seed(0), labels=of)
        for of in (labels, (labels + 1) % CLASSES)
    ]
    assert not torch.equal(*given)


def test_the_head_is_told_nothing_of_the_label(
    flow: Flow, pictures: Tensor, labels: Tensor
) -> None:
    told = flow.class_logits(flow.encode(pictures, labels), labels)
    untold = flow.class_logits(flow.encode(pictures))
    assert told.shape == (len(pictures), CLASSES)
    torch.testing.assert_close(told, untold, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reversible", [False, True])
def test_training_tells_classes_apart(reversible: bool) -> None:
    """Dark, middling and bright pictures: each is likeliest under its own class, and the head
    knows it."""
    labels = torch.arange(48) % CLASSES
    images = (torch.rand(48, 3, 8, 8) * 40 + 90 * labels[:, None, None, None]).to(torch.uint8)
    config = TrainConfig(
        steps=60, batch=12, learning_rate=1e-2, warm_up=2, ema=0.5, reversible=reversible
    )
    trainer = Trainer(Flow(CONFIGS["glow"]), images, config, labels)
    trainer.initialize()
    seen = [trainer.train_step()["bits_per_dim"] for _ in range(60)]
    assert seen[-1] < seen[0] - 0.25
    flow = trainer.averaged
    with torch.no_grad():
        likelihoods = torch.stack(
            [
                flow.log_prob(images, torch.Generator().manual_seed(0), torch.full((48,), i))
                for i in range(CLASSES)
            ]
        )
        logits = flow.class_logits(flow.encode(images))
    assert (likelihoods.argmax(0) == labels).float().mean() > 0.9
    assert (logits.argmax(1) == labels).float().mean() > 0.6


def test_a_new_head_is_of_no_opinion(pictures: Tensor) -> None:
    flow = Flow(CONFIGS["glow"])
    probabilities = flow.class_logits(flow.encode(pictures)).log_softmax(1)
    assert probabilities.unique().tolist() == [pytest.approx(-math.log(CLASSES))]


def test_labels_must_be_those_of_the_images(pictures: Tensor) -> None:
    with pytest.raises(ValueError, match="3 labels cannot be those of 48 images"):
        Trainer(Flow(CONFIGS["glow"]), pictures, TrainConfig(batch=8), torch.arange(3))


def test_ycond_from_the_command_line(tmp_path: Path) -> None:
    """A class is a subfolder; its names go into the card, and a flow that knows them is a better
    judge of the pictures of each."""
    for shade, folder in ((40, "dark"), (210, "light")):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        for i in range(6):
            noise = np.random.default_rng(i).integers(0, 9, (32, 32, 3))
            picture = Image.fromarray((noise + shade).astype(np.uint8))
            picture.save(tmp_path / "faces" / folder / f"{i}.png")
    faces, out = str(tmp_path / "faces"), tmp_path / "conditional.safetensors"
    arguments = ["train", "--preset", "glow32", "--data", faces, "--validation", faces]
    arguments += ["--out", str(out), "--ycond", "--batch", "4", "--steps", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    bundle = Bundle.load(out)
    assert bundle.flow.config.classes == 2
    assert bundle.card["classes"] == ["dark", "light"]
    for name in ("class_mean", "class_log_scale"):
        assert getattr(bundle.flow.prior, name).abs().sum() > 0, "the priors of the classes moved"


def test_ycond_without_classes_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "faces" / "a.png")
    faces = str(tmp_path / "faces")
    arguments = ["train", "--preset", "glow32", "--data", faces, "--validation", faces, "--ycond"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 2
    assert "subfolder" in result.output
