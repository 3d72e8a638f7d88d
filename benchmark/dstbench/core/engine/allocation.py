"""How many weights each layer holds: a share's proportions as exact integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dstbench.api import Infeasible, InPlace, LayerInfo, LayerView, Policy, Spec, Structure
from dstbench.core.engine.budget import apportion
from dstbench.core.engine.structures import Unstructured
from dstbench.core.network.layers import Layer, budgeted_layers
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry


def check_density(density: float) -> float:
    """The density, if it is one. Raises BadInput outside (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise BadInput(f"density: expected a number in (0, 1], got {density!r}")
    return float(density)


def check_count(field: str, value: object, expected: str, least: int = 1) -> None:
    """Refuse what isn't an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(f"{field}: expected {expected}, got {value!r}")


def blank_view(layer: Layer, allocation: int = 0, signals: Mapping[str, Tensor] | None = None) -> LayerView:
    """A layer before it has a mask: nothing active. The mask costs no memory."""
    empty = torch.zeros((), dtype=torch.bool, device=layer.weight.device).expand(layer.info.shape)
    fields: dict[str, Any] = {**(signals or {})}
    return LayerView(layer.info, layer.weight.detach(), empty, empty, 0, allocation, **fields)


def bounds(
    infos: Mapping[str, LayerInfo], structures: Mapping[str, Structure]
) -> tuple[dict[str, int], dict[str, int]]:
    """The least and the most weights of each layer: one unit, and the structure's capacity."""
    lower = {name: structures[name].unit(info) for name, info in infos.items()}
    upper = {name: structures[name].capacity(info) for name, info in infos.items()}
    return {name: min(lower[name], upper[name]) for name in infos}, upper


def by_shape(share: object) -> bool:
    """Whether a share depends on the layers' shapes alone, so that it can be solved again for any density.

    In place isn't one: it has no proportions of its own, only the distance to an allocation.
    """
    return not (getattr(share, "uses_candidates", True) or isinstance(share, InPlace))


def uniform_budget(
    infos: Mapping[str, LayerInfo], n: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """The same density everywhere: what an init without a share of its own gets."""
    return apportion({name: float(info.numel) for name, info in infos.items()}, n, lower, upper)


def densities(
    model: nn.Module,
    density: float,
    init: Spec | Policy = "erk",
    dense_layers: Sequence[str] = (),
    registry: Registry | None = None,
) -> dict[str, float]:
    """The density of every maskable layer, without masking anything.

    Their weights sum to exactly ``round(density * N)`` over the layers that ``dense_layers`` doesn't leave
    out. Raises BadInput for a density outside (0, 1], an unknown init or one that reads gradients, Infeasible
    where no allocation exists.
    """
    from dstbench.core.engine.update import initial_masks
    from dstbench.core.training.method import build_policy

    layers, _ = budgeted_layers(model, dense_layers)
    infos = {name: layer.info for name, layer in layers.items()}
    structures: dict[str, Structure] = dict.fromkeys(layers, Unstructured())
    n = round(check_density(density) * sum(info.numel for info in infos.values()))
    policy = build_policy("init", init, registry)
    if policy.needs:
        raise BadInput(
            f"init: {policy} reads gradients, which only a training has: its densities are those of a "
            "Sparsifier's summary() after the first step"
        )
    try:
        _, budget = initial_masks(
            layers, structures, policy, n, seed=0, masks_wanted=not by_shape(policy.share)
        )
    except Infeasible as error:
        raise Infeasible(f"density {density:g}: {error}") from None
    return {name: budget[name] / info.numel for name, info in infos.items()}
