"""Checks of values: what weights hold at the start and where they grow, and how fast they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView, StrategyError, ValuePolicy, Values
from dstbench.testing.abilities import misspelt
from dstbench.testing.layers import LAYERS, STATES, rng, tensors, view
from dstbench.testing.problem import Findings, Problem, call_purely, describe, label, same, summarise

_STEPS = (0, 1, 5, 1000)  # behind an update
_DENSITIES = (1.0, 0.5, 0.01)
Ask = Callable[[LayerView, Generator], Tensor]


def check_values(values: Values | ValuePolicy, name: str = "") -> list[Problem]:
    """Problems of values on awkward layers: shape, dtype, device, what isn't finite, purity, determinism, global RNG;
    factors of learning rates that are finite and not negative."""
    policy = values if isinstance(values, ValuePolicy) else ValuePolicy(values)
    return summarise(label(values, name), _findings(policy))


def _findings(policy: ValuePolicy) -> Findings:
    yield from misspelt(policy.values, "values")
    try:
        policy = policy.for_optimizer("SGD")
    except StrategyError:
        return  # it is for others, and says so
    for info in LAYERS:
        for state in STATES:
            layer = view(info, state, policy.needs)
            where = f"layer {info.name!r} {list(info.shape)}, {state}"
            yield from _told(policy, layer, where)
        yield from _scales(policy, info)
    for since in _STEPS:
        factor = policy.lr_factor(since)
        if not (math.isfinite(factor) and factor >= 0):
            yield "restart", f"{since} steps behind an update: expected a finite factor >= 0, got {factor!r}"


def _told(policy: ValuePolicy, layer: LayerView, where: str) -> Findings:
    """What it says of one layer, with the memory that it has of it."""
    if policy.remembers:
        memory = yield from _once(policy.remember, layer, f"{where}, remember")
        if not isinstance(memory, Tensor):
            return
        layer = replace(layer, memory=memory)
        yield from _once(policy.remember, layer, f"{where}, remember again")
    yield from _once(policy.initial, layer, f"{where}, initial")
    before = layer.mask & (torch.arange(layer.mask.numel()).view(layer.shape) % 2 == 0)
    yield from _once(policy.grown_values, replace(layer, before=before), f"{where}, grown")
    if policy.pulls:
        yield from _once(policy.pull, layer, f"{where}, pull")


def _once(ask: Ask, layer: LayerView, where: str) -> Any:
    """Yield what is wrong with one answer; return it, None where it is no use."""
    try:
        given, impure = call_purely(lambda: ask(layer, rng(layer.info)), tensors(layer), where)
    except Exception as error:
        yield "runs", f"{where}: {describe(error)}"
        return None
    yield from impure
    if not isinstance(given, Tensor) or tuple(given.shape) != layer.shape or not given.is_floating_point():
        came = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        yield "shape", f"{where}: expected float {list(layer.shape)}, got {came}"
        return None
    if not bool(given.isfinite().all()):
        yield "finite", f"{where}: {int((~given.isfinite()).sum())} of {given.numel()} values aren't finite"
    return given


def _scales(policy: ValuePolicy, info: LayerInfo) -> Findings:
    for density in _DENSITIES:
        where = f"layer {info.name!r}, density {density:g}"
        try:
            first, again = (policy.lr_scale(info, density) for _ in range(2))
        except Exception as error:
            yield "lr_scale", f"{where}: {describe(error)}"
            continue
        if not same(first, again):
            yield "lr_scale", f"{where}: has another scale when asked again"
