"""Masks that come from outside, and the models that masks are put on: checked before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from dstbench.api.select import count
from dstbench.core.engine.allocation import SIGNALS
from dstbench.core.engine.update import Masks
from dstbench.core.training.rules import Fields, Rules
from dstbench.errors import BadInput, nearest


def checked(masks: Any, rules: Rules, weights: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> Masks:
    """The masks, bool [*w] by layer, on the weights' devices. Raises BadInput, with the layer, for any other.

    weights: as they are stored, by layer. support: bool [*w] of the layers that lost positions for good.
    """
    if rules.method.dense:
        raise BadInput("masks: a dense recipe has none")
    if not isinstance(masks, Mapping):
        raise BadInput(f"masks: expected {{layer name: bool tensor}}, got {type(masks).__name__}")
    for name in masks:
        if name not in rules.layers:
            raise BadInput(f"masks: no layer {name!r} is in the budget{nearest(str(name), rules.layers)}")
    missing = [name for name in rules.layers if name not in masks]
    if missing:
        raise BadInput(f"masks: expected one for each layer in the budget, none for {', '.join(missing)}")
    imposed = {}
    for name, layer in rules.layers.items():
        mask, where = masks[name], f"masks: layer {name!r}"
        shape = tuple(layer.info.shape)
        if not isinstance(mask, Tensor):
            raise BadInput(f"{where}: expected bool {shape}, got {type(mask).__name__}")
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise BadInput(f"{where}: expected bool {shape}, got {mask.dtype} {tuple(mask.shape)}")
        if mask.is_meta or mask.layout is not torch.strided:
            raise BadInput(
                f"{where}: expected a dense tensor with values, got {mask.layout} on {mask.device}"
            )
        mask = mask.to(weights[name].device)
        if not bool(mask.any()):
            raise BadInput(f"{where}: no weight is active")
        if not rules.structures[name].is_legal(layer.info, mask):
            raise BadInput(f"{where}: not a mask of {rules.structures[name].component!r}")
        if name in support and bool((mask & ~support[name]).any()):
            raise BadInput(f"{where}: weights that were removed for good are active")
        imposed[name] = mask.clone()
    return imposed


def checked_fields(fields: Any, layers: Collection[str]) -> Fields:
    """Signals by LayerView's field and layer. Raises BadInput for any other."""
    if not isinstance(fields, Mapping):
        raise BadInput(f"fields: expected {{signal: {{layer name: tensor}}}}, got {type(fields).__name__}")
    for kind, values in fields.items():
        if kind not in SIGNALS:
            raise BadInput(f"fields: no signal {kind!r}{nearest(str(kind), SIGNALS)}")
        if not isinstance(values, Mapping):
            raise BadInput(f"fields: {kind}: expected {{layer name: tensor}}, got {type(values).__name__}")
        for name in values:
            if name not in layers:
                raise BadInput(
                    f"fields: {kind}: no layer {name!r} is in the budget{nearest(str(name), layers)}"
                )
    return fields


def budget_of(masks: Masks, held: Mapping[str, int], rules: Rules) -> dict[str, int]:
    """The weights that each layer holds by these masks: ``held``, as in the books, where that is near enough."""
    active = {name: count(mask) for name, mask in masks.items()}
    near = {
        name: 2 * abs(active[name] - held[name]) <= rules.structures[name].unit(layer.info)
        for name, layer in rules.layers.items()
    }
    return {name: held[name] if near[name] else number for name, number in active.items()}
