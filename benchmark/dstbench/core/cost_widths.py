"""What is left of a network when whole channels go: the dense network that any hardware can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dstbench.core.graph import edges, removable_rows
from dstbench.core.layers import maskable_layers
from dstbench.errors import BadInput, nearest

if TYPE_CHECKING:
    from dstbench.core.cost import LayerCost


@dataclass(frozen=True)
class Kept:
    """The parts of a layer that stay, as fractions."""

    rows: float = 1.0  # output channels
    columns: float = 1.0  # input channels


def widths(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Output rows that stay in each layer that loses any, by masks, bool [*w]: only rows whose removal is exact."""
    return {name: int((~dead).sum()) for name, dead in removable_rows(model, masks).items()}


def kept_parts(model: nn.Module, rows: Mapping[str, float]) -> dict[str, Kept]:
    """What stays of the layers that lose rows, and of the layers that consumed those rows.

    rows: layer name -> output rows that stay; a number need not be whole, so that a uniform fraction can be
    asked about. Raises BadInput for an unknown layer, a number outside (0, rows], and for a layer whose rows
    meet an addition, a concatenation or anything else that keeps them from being removed alone.
    """
    found, layers = edges(model), maskable_layers(model)
    kept: dict[str, Kept] = {}
    for name, stay in rows.items():
        if name not in layers:
            raise BadInput(f"widths: no layer {name!r}{nearest(name, layers)}")
        full, edge = layers[name].info.shape[0], found[name]
        if isinstance(stay, bool) or not isinstance(stay, int | float) or not 0 < stay <= full:
            raise BadInput(f"widths: layer {name!r}: expected rows in (0, {full}], got {stay!r}")
        if edge.blocked or not edge.consumers:
            why = edge.blocked or "nothing consumes its rows"
            raise BadInput(f"widths: layer {name!r} can't be narrowed: {why}")
        fraction = stay / full
        kept[name] = replace(kept.get(name, Kept()), rows=fraction)
        for consumer in edge.consumers:
            before = kept.get(consumer, Kept())
            kept[consumer] = replace(before, columns=before.columns * fraction)
    return kept


def shrink(costs: Mapping[str, LayerCost], kept: Mapping[str, Kept]) -> dict[str, LayerCost]:
    """The layers' costs in the compacted dense network."""
    return {name: _shrink(layer, kept[name]) if name in kept else layer for name, layer in costs.items()}


def _shrink(layer: LayerCost, kept: Kept) -> LayerCost:
    return replace(
        layer,
        macs=round(layer.macs * kept.rows * kept.columns),
        outputs=round(layer.outputs * kept.rows),
        weights=round(layer.weights * kept.rows * kept.columns),
        rows=round(layer.rows * kept.rows),
        padded_outputs=None if layer.padded_outputs is None else round(layer.padded_outputs * kept.rows),
    )
