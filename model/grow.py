"""Growing a trained flow: more steps or wider networks and the same function, or twice the
resolution and the same function of the smaller picture, so that training goes on from there; and,
after training, a prior with common factors."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from model.config import FlowConfig
from model.factors import FactorPrior
from model.flow import Flow
from model.layers import Chain, CouplingNetwork, Invertible1x1

# Details of faces lie within a few hundredths of a picture's range: so they are near 1.
DETAIL_GAIN = 64.0
# Of new hidden channels beside what they would begin with: one that is loud shakes a trained flow
# as soon as it is heard (from `faces128`, gradients ten times as long in the first steps).
QUIET = 0.1


def grown(flow: Flow, config: FlowConfig) -> Flow:
    """A flow of a deeper or wider config that maps every image as `flow` does, with its weights; or
    of one of twice the resolution, with a level before the others that maps the means of 2x2 pixels
    so. The common factors of its prior are left behind: they are found after training.

    Each level keeps its steps, and as many as are missing follow them in pairs: a step that swaps
    the halves of x for the coupling, which is the identity as it starts (Glow, 3.3), and one that
    swaps them back. The steps of a new first level hand its four groups of channels round. New
    hidden channels begin with weights of their own, and none to what was there before (Wei et al.
    2016, Network Morphism).

    Raises ValueError where the configs differ in more, a level has more steps or hidden channels
    than it may keep, or lacks an odd number of steps, or a new first level has not one step and
    some fours.
    """
    flow = without_factors(flow)
    if config.resolution > flow.config.resolution:
        return _finer(flow, config)
    return _larger(flow, config)


def with_factors(flow: Flow, prior: FactorPrior, levels: int) -> Flow:
    """The same flow, whose parts of the last levels have a prior with common factors."""
    plain = without_factors(flow)
    factors = prior.loadings.shape[1]
    fitted = Flow(replace(plain.config, factors=factors, factor_levels=levels)).to(plain.prior.mean)
    of_prior = {f"common.{name}": value for name, value in prior.state_dict().items()}
    fitted.load_state_dict(plain.state_dict() | of_prior)
    return _as_free(fitted, flow)


def without_factors(flow: Flow) -> Flow:
    """The same flow of a standard prior."""
    if not flow.common:
        return flow
    plain = Flow(replace(flow.config, factors=0, factor_levels=0)).to(flow.prior.mean)
    weights = flow.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return _as_free(plain, flow)


def _as_free(flow: Flow, other: Flow) -> Flow:
    """The flow, to learn or not as the other does."""
    return flow.train(other.training).requires_grad_(other.prior.mean.requires_grad)


@torch.no_grad()
def _larger(flow: Flow, config: FlowConfig) -> Flow:
    same = flow.config.to_dict() | {"steps": config.steps, "hidden": config.hidden}
    if differing := [name for name, value in config.to_dict().items() if same[name] != value]:
        raise ValueError(
            "a flow grows in steps and hidden channels, or by a level of finer pixels, not in "
            + ", ".join(differing)
        )
    for i, (now, then) in enumerate(zip(flow.config.steps, config.steps, strict=True)):
        if then < now or (then - now) % 2:
            raise ValueError(f"level {i} of {now} steps grows by pairs of steps, not to {then}")
    for i, (now, then) in enumerate(zip(flow.config.hidden, config.hidden, strict=True)):
        if then < now:
            raise ValueError(f"level {i} of {now} hidden channels does not shrink to {then}")
    if config.permutation != "invertible_1x1" and config.steps != flow.config.steps:
        raise ValueError("only a flow with 1x1 convolutions can begin with more steps than it had")
    larger = Flow(config).to(flow.prior.mean)
    weights = larger.state_dict()  # the tensors themselves
    for name, tensor in flow.state_dict().items():
        here = weights[name][: len(tensor)]
        here.zero_()  # what was there does not see new channels
        here[tuple(map(slice, tensor.shape))] = tensor
    for i, (channels, *_) in enumerate(config.input_shapes):
        for coupling in larger.levels[i].checkerboard:
            _hush(coupling, flow.config.hidden[i])
        kept = flow.config.steps[i]
        for j, step in enumerate(larger.levels[i].steps):
            _hush(step, flow.config.hidden[i] if j < kept else 0)
            if j >= kept:
                _mix_by(step, _handed_on(4 * channels, 2 * channels))
    return larger


@torch.no_grad()
def _finer(flow: Flow, config: FlowConfig) -> Flow:
    """The first step of the new level turns each 2x2 pixels into their mean and three differences
    (Haar's wavelet), a picture's channels each; the mean of the dequantized pixels is what the
    next level was trained on. The others move a quarter of the channels from the last places to
    the first, so that every coupling sees other ones, until all are back."""
    if config.kept[:1] != (config.channels,) or config.steps[0] % 4 != 1:
        raise ValueError(
            f"a new first level keeps the {config.channels} channels of a picture and has one step "
            f"and some fours, not {config.kept[:1]} and {config.steps[0]}"
        )
    coarse = _larger(
        flow,
        replace(
            config,
            resolution=config.resolution // 2,
            steps=config.steps[1:],
            hidden=config.hidden[1:],
            kept=config.kept[1:],
        ),
    )
    finer = Flow(config).to(flow.prior.mean)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        *zip(finer.levels[1:], coarse.levels, strict=True),
        *zip(finer.splits[1:], coarse.splits, strict=True),
        (finer.prior, coarse.prior),
    ]
    if config.classes:
        pairs.append((finer.classifier, coarse.classifier))
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    first, *others = finer.levels[0].steps
    _mix_by(first, _haar(config.channels))
    for step in others:
        _mix_by(step, _handed_on(4 * config.channels, config.channels))
    return finer


def _hush(step: Chain, kept: int) -> None:
    """Makes hidden channels after those `kept` quiet."""
    for network in step.modules():
        if isinstance(network, CouplingNetwork):
            layers = (network.first, network.middle, *network.further)
            last = [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1]
            last.weight[kept:] *= QUIET


def _mix_by(step: Chain, weight: Tensor) -> None:
    for layer in step.layers:
        if isinstance(layer, Invertible1x1):
            layer.set_weight(weight)


def _handed_on(channels: int, places: int) -> Tensor:
    """The matrix that moves each of the channels some places on, the last ones to the first."""
    return torch.eye(channels, dtype=torch.float64).roll(places, 0)


def _haar(channels: int) -> Tensor:
    """The matrix that turns squeezed pixels, four numbers a channel, into their means and then
    their horizontal, vertical and diagonal differences, each of every channel."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    square = torch.kron(pair, pair) / 4
    square[1:] *= DETAIL_GAIN
    # (kind, channel, channel, pixel): each kind of a channel is of its own four pixels
    of_own = torch.einsum("kp,cd->kcdp", square, torch.eye(channels, dtype=torch.float64))
    return of_own.reshape(4 * channels, 4 * channels)
