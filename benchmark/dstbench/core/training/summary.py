"""A table of a Sparsifier's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstbench.api.select import count

if TYPE_CHECKING:
    from pandas import DataFrame

    from dstbench.core.training.sparsifier import Sparsifier


def summarise(sparsifier: Sparsifier) -> DataFrame:
    """One row a layer: shape, structure, target and measured density, exploration, rows without a weight."""
    from pandas import DataFrame

    kept, topology = sparsifier.kept, sparsifier.topology
    stray = sparsifier.weights.stray()
    return DataFrame(
        {
            "layer": name,
            "shape": layer.info.shape,
            "weights": layer.info.numel,
            "structure": _structure(sparsifier, name),
            "target": sparsifier.budget[name] / layer.info.numel,
            "measured": (topology.active[name] + stray[name]) / layer.info.numel,
            "active": topology.active[name],
            "r_s": topology.explored_counts[name] / layer.info.numel,
            "never_dropped": kept[name] / topology.initial[name],
            "dead_rows": layer.info.shape[0] - count(topology.masks[name].flatten(1).any(1)),
        }
        for name, layer in sparsifier.layers.items()
    )


def _structure(sparsifier: Sparsifier, name: str) -> str:
    if name in sparsifier.fallbacks:
        return "unstructured: " + sparsifier.fallbacks[name]
    return type(sparsifier.structures[name].component).__name__.lower()
