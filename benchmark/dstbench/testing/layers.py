"""Awkward layers: sizes of one, primes, depthwise, large units, masks empty and full, ties, all-zero tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from dstbench.api import Clock, Heads, LayerInfo, LayerView, Signal
from dstbench.api.accumulators import SEEN, Folding, products
from dstbench.core.engine.random import generator

Kind = Literal["conv", "conv_transpose", "linear"]

_SHAPES: tuple[tuple[str, Kind, tuple[int, ...]], ...] = (
    ("one", "linear", (1, 1)),
    ("row", "linear", (1, 7)),
    ("column", "linear", (7, 1)),
    ("linear", "linear", (8, 16)),
    ("prime", "linear", (13, 11)),
    ("conv", "conv", (6, 4, 3, 3)),
    ("prime_conv", "conv", (5, 3, 3, 3)),
    ("depthwise", "conv", (8, 1, 3, 3)),
    ("pointwise", "conv", (8, 12, 1, 1)),
    ("conv1d", "conv", (4, 3, 5)),
    ("transposed", "conv_transpose", (3, 5, 2, 2)),
    ("wide", "linear", (64, 64)),
    ("wide_conv", "conv", (16, 16, 3, 3)),
    ("classifier", "linear", (10, 16)),
)

LAYERS: tuple[LayerInfo, ...] = tuple(
    LayerInfo(
        name,
        shape,
        kind,
        name == "classifier",
        heads=Heads(8, 2) if name == "wide" else None,
        sees_input=name in ("one", "row", "column", "linear"),
    )
    for name, kind, shape in _SHAPES
)

STATES = ("half", "empty", "full", "dropped", "ties", "zeros", "double")
"""half: half of the weights active. dropped: an update has just removed some. ties: all weights and signals
equal. zeros: all of them zero. double: float64."""


def rng(info: LayerInfo, role: str = "") -> Generator:
    """A fresh generator, the same at every call."""
    return generator(0, info.name, 1, f"testing {role}")


def view(
    info: LayerInfo,
    state: str = "half",
    needs: Signal = Signal.NONE,
    foldings: Mapping[str, Folding] = MappingProxyType({}),
) -> LayerView:
    """A layer in one of the STATES with the signals in ``needs`` and the accumulators, the same at every call."""
    layer = _plain(info, state, needs)
    extra = {name: folded(folding, name, info, state) for name, folding in foldings.items()}
    if Signal.HESSIAN in needs:
        extra["hessian"] = _plain(info, state, Signal.MOMENTUM).momentum  # type: ignore[assignment]
    return replace(layer, extra=extra) if extra else layer


def folded(folding: Folding, name: str, info: LayerInfo, state: str, steps: int = 2) -> Tensor:
    """What an accumulator comes to after a few steps, as a score sees it: [*w]."""
    layer = fed(folding, _plain(info, state, folding.needs))
    total = folding.start(layer)
    for step in range(1, steps + 1):
        total = folding.fold(total, layer, Clock(step, 10, 2), name)
    return total.expand(info.shape)


def fed(folding: Folding, layer: LayerView) -> LayerView:
    """A layer with what ``fold`` finds of its inputs, or of its output's gradients."""
    if folding.entry is None:
        return layer
    rows = Signal.OUTPUT_GRADIENTS in folding.needs
    shape = (layer.shape[0], *[1] * (len(layer.shape) - 1)) if rows else (1, *layer.shape[1:])
    values = torch.randn((3, *shape), generator=rng(layer.info, "seen"))
    entries = folding.entry(values)
    pairs = folding.pairs and products(entries.flatten(1), layer.shape[0]).view(layer.shape)
    seen = pairs if isinstance(pairs, Tensor) else entries.sum(0)
    return replace(layer, extra={SEEN: seen.to(layer.weight.device)})


def _plain(info: LayerInfo, state: str, needs: Signal) -> LayerView:
    draw = rng(info, "values")
    dtype = torch.float64 if state == "double" else torch.float32
    weight, grad, momentum = (_values(info, state, draw).to(dtype) for _ in range(3))
    before = _mask(info, state, draw)
    mask = before & (torch.rand(info.shape, generator=draw) < 0.7) if state == "dropped" else before
    return LayerView(
        info,
        weight * before,
        mask,
        before,
        active=int(mask.count_nonzero()),
        allocation=int(before.count_nonzero()),
        progress=0.25,
        grad=grad if Signal.GRAD in needs else None,
        active_grad=grad * mask if Signal.ACTIVE_GRAD in needs else None,
        momentum=momentum if Signal.MOMENTUM in needs else None,
        memory=momentum.sign() if Signal.MEMORY in needs else None,
    )


def tensors(layer: LayerView) -> Mapping[str, Tensor]:
    """The tensors that a strategy gets to see, by field name."""
    fields = ("weight", "mask", "before", "grad", "active_grad", "momentum", "support", "memory")
    held = {name: value for name in fields if (value := getattr(layer, name)) is not None}
    return held | {f"extra.{name}": value for name, value in layer.extra.items()}


def on_device(layer: LayerView, device: str) -> LayerView:
    """The same layer with its tensors on another device."""
    held = {name: tensor.to(device) for name, tensor in tensors(layer).items()}
    extra = {name: held.pop(f"extra.{name}") for name in layer.extra}
    moved: dict[str, Any] = {**held, "extra": extra}
    return replace(layer, **moved)


def _values(info: LayerInfo, state: str, draw: Generator) -> Tensor:
    if state == "zeros":
        return torch.zeros(info.shape)
    if state == "ties":
        return torch.full(info.shape, 0.5)
    return torch.randn(info.shape, generator=draw)


def _mask(info: LayerInfo, state: str, draw: Generator) -> Tensor:
    if state in ("empty", "full"):
        return torch.full(info.shape, state == "full")
    mask = torch.rand(info.shape, generator=draw) < 0.5
    mask.view(-1)[0] = True  # no layer is ever without weights during training
    return mask
