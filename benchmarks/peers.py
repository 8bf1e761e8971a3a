"""Glow as the peers build it, in the shape of a config of ours.

As near as each comes: affine couplings of 3x3, 1x1 and 3x3 convolutions, ActNorm, 1x1
convolutions, squeeze and split. normflows has no prior in its splits and LU-form 1x1 convolutions
like ours; FrEIA has no prior either, and 1x1 convolutions that do not learn.
"""

import FrEIA.framework as ff
import FrEIA.modules as fm
import normflows
import torch
from normflows.distributions import GlowBase
from normflows.flows import GlowBlock, Merge, Squeeze
from torch import nn

from model.config import FlowConfig


def normflows_glow(config: FlowConfig) -> normflows.MultiscaleFlow:
    """With `log_prob(y, classes)`, `inverse_and_log_det(y)` and `forward_and_log_det(latent)`."""
    priors: list[nn.Module] = []
    levels: list[list[nn.Module]] = []
    for level, (channels, height, width) in enumerate(config.part_shapes):
        last = level == config.levels - 1
        priors.append(GlowBase((channels, height, width)))
        wide = channels if last else 2 * channels  # before its half is split off
        steps = [GlowBlock(wide, config.hidden[level]) for _ in range(config.steps[level])]
        levels.append([*steps, Squeeze()])
    merges = [Merge() for _ in range(config.levels - 1)]
    # normflows counts levels from the last, and layers from the latent to the image
    glow = normflows.MultiscaleFlow(priors[::-1], levels[::-1], merges, class_cond=False)
    for module in glow.modules():
        if isinstance(module, GlowBlock):
            nn.init.normal_(module.flows[0].flows[1].param_map.net[-1].weight, std=1e-3)
    return glow


def freia_glow(config: FlowConfig) -> ff.GraphINN:
    """Called with y, gives the latent's parts and log |det dz/dy|; `rev=True` the other way."""

    def network(hidden: int) -> object:
        def build(channels_in: int, channels_out: int) -> nn.Module:
            last = nn.Conv2d(hidden, channels_out, 3, padding=1)
            nn.init.normal_(last.weight, std=1e-3)
            return nn.Sequential(
                nn.Conv2d(channels_in, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 1),
                nn.ReLU(),
                last,
            )

        return build

    size = config.resolution
    nodes: list[ff.AbstractNode] = [ff.InputNode(config.channels, size, size)]
    outputs: list[ff.AbstractNode] = []
    channels, tip = config.channels, nodes[0].out0
    for level in range(config.levels):
        channels *= 4
        nodes.append(ff.Node(tip, fm.IRevNetDownsampling, {}))
        for _ in range(config.steps[level]):
            nodes.append(ff.Node(nodes[-1], fm.ActNorm, {}))
            rotation = torch.linalg.qr(torch.randn(channels, channels)).Q
            nodes.append(ff.Node(nodes[-1], fm.Fixed1x1Conv, {"M": rotation}))
            coupling = {"subnet_constructor": network(config.hidden[level]), "clamp": 1.0}
            nodes.append(ff.Node(nodes[-1], fm.AffineCouplingOneSided, coupling))
        if level < config.levels - 1:
            channels //= 2
            nodes.append(
                ff.Node(nodes[-1], fm.Split, {"section_sizes": [channels, channels], "dim": 0})
            )
            tip = nodes[-1].out0
            outputs.append(ff.OutputNode(nodes[-1].out1))
    outputs.append(ff.OutputNode(nodes[-1]))
    return ff.GraphINN([*nodes, *outputs])
