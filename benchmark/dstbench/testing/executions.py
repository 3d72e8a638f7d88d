"""Checks of executions: what a structure's ``accelerate`` offers computes what masked dense does."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dstbench.api import Execution, LayerCall, LayerInfo
from dstbench.core.engine.structures import EngineStructure
from dstbench.core.network.outputs import difference
from dstbench.core.storage.condensed_layer import gather, scatter
from dstbench.testing.layers import rng
from dstbench.testing.problem import Findings, describe

_TOLERANCE = 1e-5  # of the largest value


def execution_findings(structure: EngineStructure, info: LayerInfo, mask: Tensor) -> Findings:
    """Each execution of a legal mask, bool [*w]: what it stores, its output and all gradients, against float64.

    Convolutions are tried with and without stride and padding, with and without bias.
    """
    if info.kind == "conv_transpose":
        return
    for call, bias in _calls(info):
        where = f"layer {info.name!r} {list(info.shape)}, {int(mask.count_nonzero())} active"
        if call.stride:
            where += f", stride {call.stride[0]}, padding {call.padding[0]}"
        held = mask.clone()
        try:
            offered = list(structure.accelerate(call, mask))
        except Exception as error:
            yield "accelerate", f"{where}: {describe(error)}"
            return
        if not torch.equal(mask, held):
            yield "purity", f"{where}: accelerate wrote to the mask"
        for execution in offered:
            try:
                yield from _findings(execution, offered[0], call, mask, bias, f"{where}, {execution.path!r}")
            except Exception as error:
                yield "execution", f"{where}, {execution.path!r}: {describe(error)}"


def _calls(info: LayerInfo) -> list[tuple[LayerCall, bool]]:
    """How a layer may be used."""
    spatial = len(info.shape) - 2
    if spatial <= 0:
        return [(LayerCall(info), True), (LayerCall(info), False)]
    plain = LayerCall(info, (1,) * spatial, tuple(k // 2 for k in info.shape[2:]), (1,) * spatial)
    return [(plain, True), (replace(plain, stride=(2,) * spatial, padding=(0,) * spatial), False)]


def _findings(
    execution: Execution, first: Execution, call: LayerCall, mask: Tensor, bias: bool, where: str
) -> Findings:
    positions = execution.positions
    kept = positions[positions >= 0]
    if positions.dtype != torch.int64 or not torch.equal(
        kept.sort().values, mask.flatten().nonzero().flatten()
    ):
        yield "positions", f"{where}: expected each active weight once, int64"
        return
    if not torch.equal(positions, first.positions):
        yield "positions", f"{where}: stores in another order than {first.path!r}"
        return
    draw = rng(call.info, "execution")
    weight = torch.randn(call.info.shape, generator=draw) * mask
    x = torch.randn(3, call.info.shape[1], *[k + 4 for k in call.info.shape[2:]], generator=draw)
    shift = torch.randn(call.info.shape[0], generator=draw) if bias else None
    inputs = [x, gather(weight, positions), *([] if shift is None else [shift])]
    mine = [tensor.clone().requires_grad_() for tensor in inputs]
    out = execution(mine[0], execution.pack(mine[1]), mine[2] if bias else None)
    theirs = [tensor.double().requires_grad_() for tensor in (x, weight, *([] if shift is None else [shift]))]
    expected = _dense(call, theirs[0], theirs[1], theirs[2] if bias else None)
    if out.shape != expected.shape:
        yield "output", f"{where}: expected shape {list(expected.shape)}, got {list(out.shape)}"
        return
    gradient = torch.randn(expected.shape, generator=draw)
    got = torch.autograd.grad(out, mine, gradient, materialize_grads=True)
    right = torch.autograd.grad(expected, theirs, gradient.double(), materialize_grads=True)
    stored = scatter(got[1], positions, call.info.shape)
    pairs = {"output": (out, expected), "input gradient": (got[0], right[0])}
    pairs["weight gradient"] = (stored, right[1] * mask)
    if bias:
        pairs["bias gradient"] = (got[2], right[2])
    for name, (a, b) in pairs.items():
        error = difference(a.detach(), b.detach())
        if not error <= _TOLERANCE:
            yield name, f"{where}: differs from masked dense by {error:.1e} of the largest value"
    if bool(got[1][positions < 0].any()):
        yield "padding", f"{where}: padding has a gradient: it wouldn't stay zero"


def _dense(call: LayerCall, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not call.stride:
        return nn.functional.linear(x, weight, bias)
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(call.stride) - 1]
    out: Tensor = convolve(x, weight, bias, call.stride, call.padding, call.dilation, call.groups)
    return out
