"""Gradients of the reversible backward against plain autograd's, and its memory."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from model import reversible
from model.config import FlowConfig
from model.flow import Flow
from model.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelPermutation,
    Invertible1x1,
    Layer,
)

CHANNELS = 6


def chain(depth: int, dtype: torch.dtype = torch.float64) -> list[Layer]:
    layers: list[Layer] = []
    for i in range(depth):
        layers += [
            ActNorm(CHANNELS),
            Invertible1x1(CHANNELS) if i % 3 else ChannelPermutation(torch.randperm(CHANNELS)),
            AffineCoupling(CHANNELS, 8, 1.0) if i % 2 else AdditiveCoupling(CHANNELS, 8),
        ]
    for layer in layers:
        layer.to(dtype)
        for parameter in layer.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return layers


def plain(layers: list[Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    log_det = x.new_zeros(x.shape[0])
    for layer in layers:
        x, change = layer(x)
        log_det = log_det + change
    return x, log_det


def gradients(layers: list[Layer], x: Tensor, outputs: tuple[Tensor, Tensor]) -> list[Tensor]:
    y, log_det = outputs
    loss = (y.square() * torch.linspace(0, 1, y.numel()).view_as(y)).sum() - log_det.pow(3).sum()
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    return list(torch.autograd.grad(loss, [x, *parameters]))


def largest_relative(expected: list[Tensor], actual: list[Tensor]) -> float:
    return max(
        ((a - e).abs().max() / e.abs().max().clamp(min=1e-12)).item()
        for e, a in zip(expected, actual, strict=True)
    )


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_gradients_are_autograds(depth: int) -> None:
    layers = chain(depth)
    x = torch.randn(3, CHANNELS, 4, 4, dtype=torch.float64, requires_grad=True)
    y, log_det = reversible.run(layers, x)
    for ours, theirs in zip((y, log_det), plain(layers, x), strict=True):
        assert torch.equal(ours, theirs)
    expected = gradients(layers, x, plain(layers, x))
    assert largest_relative(expected, gradients(layers, x, (y, log_det))) < 1e-8


def test_float32_rounds_no_further_than_a_little() -> None:
    layers = chain(12, torch.float32)
    x = torch.randn(3, CHANNELS, 4, 4, requires_grad=True)
    expected = gradients(layers, x, plain(layers, x))
    assert largest_relative(expected, gradients(layers, x, reversible.run(layers, x))) < 1e-3


def test_the_networks_run_in_the_precision_of_forward() -> None:
    """Autocast that is over by the time of backward holds for the rebuilt graph too."""
    layers = chain(4, torch.float32)
    x = torch.randn(3, CHANNELS, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(layers, x, plain(layers, x))
        outputs = reversible.run(layers, x)
    difference = largest_relative(expected, gradients(layers, x, outputs))
    assert difference < 0.05
    full = gradients(layers, x, plain(layers, x))
    assert difference < largest_relative(expected, full)


def test_an_input_that_needs_no_gradient() -> None:
    layers = chain(2)
    x = torch.randn(2, CHANNELS, 4, 4, dtype=torch.float64)
    y, log_det = reversible.run(layers, x)
    (y.sum() + log_det.sum()).backward()
    assert all(parameter.grad is not None for layer in layers for parameter in layer.parameters())
    assert x.grad is None


def test_a_second_backward_is_refused() -> None:
    """The first has walked the tape to its start; from there it would rebuild nonsense."""
    layers = chain(2)
    x = torch.randn(2, CHANNELS, 4, 4, dtype=torch.float64, requires_grad=True)
    y, log_det = reversible.run(layers, x)
    loss = y.square().sum() + log_det.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_no_activation_is_kept() -> None:
    """After forward, of all the tensors that a layer put out only the last is alive."""
    layers = chain(6)
    seen: list[weakref.ref[Tensor]] = []
    for layer in layers:
        layer.register_forward_hook(lambda *call: seen.append(weakref.ref(call[2][0])))
    x = torch.randn(2, CHANNELS, 4, 4, dtype=torch.float64, requires_grad=True)
    outputs = reversible.run(layers, x)
    gc.collect()
    assert len(seen) == len(layers)
    storages = {
        tensor.data_ptr() for tensor in (reference() for reference in seen) if tensor is not None
    }
    assert storages <= {outputs[0].data_ptr()}
    kept = plain(layers, x)
    gc.collect()
    alive = [reference() for reference in seen[len(layers) :]]
    assert sum(tensor is not None for tensor in alive) > 1, "the test can tell"
    assert kept[0].requires_grad


def test_a_whole_flow_learns_the_same_either_way() -> None:
    learns_the_same_either_way(FlowConfig(resolution=8, steps=(3, 2), hidden=(8, 8)))


def test_each_family_learns_the_same_either_way(family: FlowConfig) -> None:
    for coupling in ("additive", "affine"):
        learns_the_same_either_way(FlowConfig.from_dict({**family.to_dict(), "coupling": coupling}))


def learns_the_same_either_way(config: FlowConfig) -> None:
    flow = Flow(config)
    flow.initialize(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8))
    flow.double()
    for parameter in flow.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    y = torch.rand(4, 3, 8, 8, dtype=torch.float64) - 0.5
    found, latents = [], []
    for flow.reversible in (False, True):
        latent, log_det = flow(y)
        latents.append(flow.flatten(latent))
        loss = flow.log_density_of(latent, log_det).sum()
        found.append([loss, *torch.autograd.grad(loss, list(flow.parameters()))])
    assert torch.equal(*latents)
    # log-determinants are added up step by step, or layer by layer
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
    assert largest_relative(found[0], found[1]) < 1e-8
