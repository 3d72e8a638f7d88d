"""Checks of a support: what a structure removes for good, over a whole training of a small chain."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from dstbench.api import Clock, LayerInfo, LayerView, Support
from dstbench.api.select import count
from dstbench.core.engine.random import generator
from dstbench.core.network.couplings import couplings
from dstbench.core.network.layers import maskable_layers
from dstbench.core.training.support import shrunk
from dstbench.testing.layers import tensors
from dstbench.testing.problem import Findings, call_purely, describe

_STEPS = 4000


def support_findings(component: Support) -> Findings:
    """Events are the same when asked again; removals are subsets, leave no layer empty, and are pure."""
    clocks = [Clock(step, _STEPS, 100) for step in range(_STEPS + 1)]
    events = [clock for clock in clocks if component.events(clock)]
    if events != [clock for clock in clocks if component.events(clock)]:
        yield "events", "asked again, other steps are events"
    with torch.device("meta"):  # draws nothing from the global generator
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1),
            nn.Flatten(), nn.Linear(8 * 16, 10),
        )  # fmt: skip
    layers = maskable_layers(model)
    coupled = couplings(model, layers)
    views = {name: _view(layer.info) for name, layer in layers.items()}
    for clock in [clocks[0], *events]:
        where = f"step {clock.step} of {_STEPS}"
        inputs = {f"{n}.{k}": v for n, view in views.items() for k, v in tensors(view).items()}
        call = partial(shrunk, component, views, coupled, clock)
        try:
            result, impure = call_purely(call, inputs, where)
        except Exception as error:
            yield "support", f"{where}: {describe(error)}"
            return
        yield from impure
        for name, support in result.items():
            mask = views[name].mask & support
            views[name] = replace(views[name], support=support, mask=mask, active=count(mask))


def _view(info: LayerInfo) -> LayerView:
    draw = generator(0, info.name, 0)
    mask = torch.rand(info.shape, generator=draw) < 0.5
    weight = torch.randn(info.shape, generator=draw) * mask
    return LayerView(info, weight, mask, mask, count(mask), count(mask))
