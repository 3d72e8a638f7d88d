"""A table of a Sparsifier's layers."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from dstbench.api.select import count

if TYPE_CHECKING:
    from pandas import DataFrame

    from dstbench.core.training.readings import Readings


def summarise(readings: Readings) -> DataFrame:
    """One row a layer: shape, structure, what is taken at random since a score can't rank it, target and measured
    density, exploration, rows without a weight.

    Matrix weights outside the budget follow, all active, with the reason in place of the structure.
    """
    from pandas import DataFrame

    kept, topology = readings.kept, readings.topology
    stray = readings.weights.stray()
    rows: list[dict[str, Any]] = [
        {
            "layer": name,
            "shape": layer.info.shape,
            "weights": layer.info.numel,
            "structure": _structure(readings, name),
            "at_random": readings.rules.unscored.get(name, ""),
            "target": readings.budget[name] / layer.info.numel,
            "measured": (topology.active[name] + stray[name]) / layer.info.numel,
            "active": topology.active[name],
            "r_s": topology.explored_counts[name] / layer.info.numel,
            "never_dropped": kept[name] / topology.initial[name],
            "dead_rows": layer.info.shape[0] - count(topology.masks[name].flatten(1).any(1)),
        }
        for name, layer in readings.layers.items()
    ]
    rows += [
        _dense(name, tuple(layer.info.shape), "dense_layers") for name, layer in readings.dense_layers.items()
    ]
    rows += [_dense(name, left.shape, left.reason) for name, left in readings.left_out.items()]
    table = DataFrame(rows)
    table.attrs = {"density": readings.density, "total_density": readings.total_density}
    return table


def _dense(name: str, shape: tuple[int, ...], reason: str) -> dict[str, Any]:
    weights = prod(shape)
    return {
        "layer": name,
        "shape": shape,
        "weights": weights,
        "structure": f"dense: {reason}",
        "at_random": "",
        **dict.fromkeys(("target", "measured", "r_s", "never_dropped"), 1.0),
        "active": weights,
        "dead_rows": 0,
    }


def _structure(readings: Readings, name: str) -> str:
    if name in readings.fallbacks:
        return "unstructured: " + readings.fallbacks[name]
    return type(readings.structures[name].component).__name__.lower()
