"""Growing a trained flow: more steps, the same function, so that training goes on from there."""

import torch

from model.config import FlowConfig
from model.flow import Flow
from model.layers import Chain, Invertible1x1


@torch.no_grad()
def grown(flow: Flow, config: FlowConfig) -> Flow:
    """A flow of a deeper config that maps every image as `flow` does, with its weights.

    Each level keeps its steps, and as many as are missing follow them in pairs: a step that swaps
    the halves of x for the coupling, which is the identity as it starts (Glow, 3.3), and one that
    swaps them back.

    Raises ValueError where the configs differ in more than depth, a level has more steps than it
    may keep, or lacks an odd number of them.
    """
    same = flow.config.to_dict() | {"steps": config.steps}
    if differing := [name for name, value in config.to_dict().items() if same[name] != value]:
        raise ValueError(f"a flow grows in steps alone, not in {', '.join(differing)}")
    for i, (now, then) in enumerate(zip(flow.config.steps, config.steps, strict=True)):
        if then < now or (then - now) % 2:
            raise ValueError(f"level {i} of {now} steps grows by pairs of steps, not to {then}")
    if config.permutation != "invertible_1x1" and config != flow.config:
        raise ValueError("only a flow with 1x1 convolutions can begin with more steps than it had")
    deeper = Flow(config).to(flow.prior.mean)
    deeper.load_state_dict(deeper.state_dict() | flow.state_dict())
    for level, kept in zip(deeper.levels, flow.config.steps, strict=True):
        for step in list(level.steps)[kept:]:
            _swap_halves(step)
    return deeper


def _swap_halves(step: Chain) -> None:
    for layer in step.layers:
        if isinstance(layer, Invertible1x1):
            size = len(layer.sign)
            layer.permutation.copy_(torch.eye(size).roll(size // 2, 0))
            layer.sign.fill_(1)
            for tensor in (layer.log_scale, layer.lower, layer.upper):
                tensor.zero_()
