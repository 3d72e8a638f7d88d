"""What is left of a network when whole channels go: the dense network that any hardware can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dstbench.core.network.channels import Removal, channels, removable, units
from dstbench.core.network.inputs import Inputs, each_tensor
from dstbench.core.network.largest import largest
from dstbench.core.network.layers import impose, maskable_layers
from dstbench.core.storage.condensed_layer import expanded
from dstbench.errors import BadInput, nearest

if TYPE_CHECKING:
    from dstbench.core.cost.layers import LayerCost


@dataclass(frozen=True)
class Kept:
    """The parts of a layer that stay, as fractions."""

    rows: float = 1.0  # output channels
    columns: float = 1.0  # input channels


def widths(model: nn.Module, masks: Mapping[str, Tensor], example: Inputs | None = None) -> dict[str, int]:
    """Output rows that stay in each layer that loses any, by masks, bool [*w]: only rows whose removal is exact.

    example: an input; with one they are the rows that ``compact`` leaves, for models that can't be traced without
    an input or whose own code needs its widths, too.
    """
    return {name: int((~gone).sum()) for name, gone in removal_by_masks(model, masks, example).rows.items()}


def kept_parts_of(removal: Removal) -> dict[str, Kept]:
    """What compaction leaves of the layers that lose rows or columns."""
    rows, columns = (
        {name: int((~gone).sum()) / len(gone) for name, gone in part.items()}
        for part in (removal.rows, removal.columns)
    )
    return {name: Kept(rows.get(name, 1.0), columns.get(name, 1.0)) for name in rows | columns}


def removal_by_masks(model: nn.Module, masks: Mapping[str, Tensor], example: Inputs | None) -> Removal:
    """The channels that compaction takes, by masks, bool [*w]: on the example, as it does it, where the model has
    values; else by its graph alone."""
    weight = next(model.parameters(), None)
    if example is None or weight is None or weight.is_meta:
        return removable(model, masks, example=example)
    beside = each_tensor(example, lambda tensor: tensor.to(weight.device))
    return largest(impose(expanded(model), masks).eval(), masks, beside).removal


def kept_parts(model: nn.Module, rows: Mapping[str, float], example: Inputs | None = None) -> dict[str, Kept]:
    """What stays of the layers that lose rows, and of the layers that consumed those rows.

    rows: layer name -> output rows that stay; a number need not be whole, so that a uniform fraction can be
    asked about. Naming one layer of a residual stream narrows all that add to it. Raises BadInput for an unknown
    layer, a number outside (0, rows], a stream given two widths, and for a layer whose rows meet something that
    keeps them from being removed. example: an input, for models that can't be traced without one.
    """
    network, layers = channels(model, None, example), maskable_layers(model)
    unit_of = {name: unit for unit in units(network) if unit.consumers for name in unit.producers}
    kept: dict[str, Kept] = {}
    for name, stay in rows.items():
        if name not in layers:
            raise BadInput(f"widths: no layer {name!r}{nearest(name, layers)}")
        full = layers[name].info.shape[0]
        if isinstance(stay, bool) or not isinstance(stay, int | float) or not 0 < stay <= full:
            raise BadInput(f"widths: layer {name!r}: expected rows in (0, {full}], got {stay!r}")
        if name not in unit_of:
            why = network.blocked(name) or "its channels aren't the only ones where they are read"
            raise BadInput(f"widths: layer {name!r} can't be narrowed: {why}")
        unit = unit_of[name]
        other = next((layer for layer in unit.producers if rows.get(layer, stay) != stay), None)
        if other:
            raise BadInput(
                f"widths: layers {name!r} and {other!r} share channels, got {stay} and {rows[other]}"
            )
        if name != next(layer for layer in rows if layer in unit.producers):
            continue  # counted with the first of its unit
        fraction = stay / full
        for producer in unit.producers:
            kept[producer] = replace(kept.get(producer, Kept()), rows=fraction)
        for consumer in unit.consumers:
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
