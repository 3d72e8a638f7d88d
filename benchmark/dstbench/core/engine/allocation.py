"""How many weights each layer holds: a share's proportions as exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dstbench.api import InPlace, LayerInfo, LayerView, Policy, Share, Structure
from dstbench.api.select import count
from dstbench.core.engine.budget import apportion
from dstbench.core.network.layers import Layer
from dstbench.errors import BadInput

SIGNALS = ("grad", "active_grad", "momentum")
"""The fields of a LayerView that only those who ask for them have; all else that they ask for is in ``extra``."""


def check_density(density: float) -> float:
    """The density, if it is one. Raises BadInput outside (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise BadInput(f"density: expected a number in (0, 1], got {density!r}")
    return float(density)


def check_count(field: str, value: object, expected: str, least: int = 1) -> None:
    """Refuse what isn't an integer of at least ``least`` that 64 bits hold."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(f"{field}: expected {expected}, got {value!r}")
    if value >= 2**63:
        raise BadInput(
            f"{field}: expected {expected}, below 2**63, got a number of {value.bit_length()} bits"
        )


def blank_view(layer: Layer, allocation: int = 0, signals: Mapping[str, Tensor] | None = None) -> LayerView:
    """A layer before it has a mask: nothing active. The mask costs no memory."""
    empty = torch.zeros((), dtype=torch.bool, device=layer.weight.device).expand(layer.info.shape)
    fields = view_fields(signals or {})
    return LayerView(layer.info, layer.weight.detach(), empty, empty, 0, allocation, **fields)


def view_fields(signals: Mapping[str, Tensor]) -> dict[str, Any]:
    """A layer's signals as fields of its LayerView: what isn't one of its own goes into ``extra``."""
    extra = {name: value for name, value in signals.items() if name not in SIGNALS}
    own: dict[str, Any] = {name: value for name, value in signals.items() if name in SIGNALS}
    return own | ({"extra": extra} if extra else {})


def bounds(
    infos: Mapping[str, LayerInfo], structures: Mapping[str, Structure]
) -> tuple[dict[str, int], dict[str, int]]:
    """The least and the most weights of each layer: one unit, and the structure's capacity."""
    lower = {name: structures[name].unit(info) for name, info in infos.items()}
    upper = {name: structures[name].capacity(info) for name, info in infos.items()}
    return {name: min(lower[name], upper[name]) for name in infos}, upper


def supported_bounds(
    views: Mapping[str, LayerView], structures: Mapping[str, Structure]
) -> tuple[dict[str, int], dict[str, int]]:
    """The least and the most weights of each layer within its support."""
    lower, upper = bounds({name: view.info for name, view in views.items()}, structures)
    for name, view in views.items():
        if view.support is not None:
            upper[name] = min(upper[name], count(view.support))
    return {name: min(lower[name], upper[name]) for name in views}, upper


def by_shape(share: Share) -> bool:
    """Whether a share depends on the layers' shapes alone, so that it can be solved again for any density.

    In place isn't one: it has no proportions of its own, only the distance to an allocation.
    """
    return not (Policy(share=share).uses_candidates or isinstance(share, InPlace))


def uniform_budget(
    infos: Mapping[str, LayerInfo], n: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """The same density everywhere: what an init without a share of its own gets."""
    return apportion({name: float(info.numel) for name, info in infos.items()}, n, lower, upper)
