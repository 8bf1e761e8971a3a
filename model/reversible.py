"""Backward without stored activations: memory that does not grow with depth.

Plain autograd keeps every layer's input until backward needs it. An invertible layer's input can
be had again from its output, so only the last output of a chain is kept; backward walks the chain
from there, rebuilding each input just before it is used (Gomez et al. 2017, algorithm 1;
Kingma & Dhariwal 2018, section 2).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.layers import Layer


class _Tape:
    """The one activation that a chain keeps: the output of the layer that backward comes to
    next, and that layer's place in the chain."""

    output: Tensor
    place: int = -1


class _Rebuilt(torch.autograd.Function):
    """One layer of a chain, whose backward takes its output from the tape and leaves its input
    there."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, tape: _Tape, x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        tape.place += 1
        ctx.layer, ctx.tape, ctx.place, ctx.parameters = layer, tape, tape.place, parameters
        ctx.autocast = (
            x.device.type,
            torch.get_autocast_dtype(x.device.type),
            torch.is_autocast_enabled(x.device.type),
        )
        y, log_det = layer(x)
        tape.output = y.detach()
        return y, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.place != ctx.tape.place:
            raise RuntimeError("a reversible run can be differentiated only once")
        ctx.tape.place -= 1
        device, dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast(device, dtype, enabled):
            rebuilt = ctx.layer.rebuild(ctx.tape.output)
        ctx.tape.output = torch.cat(rebuilt.inputs, dim=1).detach()
        channels = [part.shape[1] for part in rebuilt.outputs]
        outputs, grad_outputs = [*rebuilt.outputs], [*grad_y.split(channels, dim=1)]
        if rebuilt.log_det.requires_grad:  # else it is constant, as of an additive coupling
            outputs.append(rebuilt.log_det)
            grad_outputs.append(grad_log_det)
        inputs = (*rebuilt.inputs, *ctx.parameters)
        gradients = torch.autograd.grad(outputs, inputs, grad_outputs, allow_unused=True)
        count = len(rebuilt.inputs)
        return None, None, torch.cat(gradients[:count], dim=1), *gradients[count:]


_rebuilt: Callable[..., tuple[Tensor, Tensor]] = _Rebuilt.apply


def run(layers: Iterable[Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    """The layers one after another, as a chain that stores only its last output.

    Gradients equal plain autograd's but for the rounding of the rebuilt inputs. The result can be
    differentiated once (RuntimeError), and no layer may change between forward and backward.
    """
    tape = _Tape()
    log_det = x.new_zeros(x.shape[0])
    if not x.requires_grad:
        x = x.detach().requires_grad_()  # so that the first layer, too, gets a backward
    for layer in layers:
        x, change = _rebuilt(layer, tape, x, *layer.parameters())
        log_det = log_det + change
    return x, log_det
