"""A Sparsifier's checkpoint: packed masks and plain values, no pickle needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dstbench.core.storage.compact import CompactArrangement, check_loadable
from dstbench.core.storage.condensed import CondensedArrangement
from dstbench.core.training.support import Removal
from dstbench.core.training.topology import Topology, UpdateReport
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.core.training.sparsifier import Sparsifier

_VERSION = 2


def pack(mask: Tensor) -> Tensor:
    """A bool tensor as bits: uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpack(bits: Tensor, like: Tensor) -> Tensor:
    """The bool tensor that was packed, with the shape and device of ``like``."""
    flat = np.unpackbits(bits.cpu().numpy(), count=like.numel())
    return torch.from_numpy(flat.astype(bool)).view(like.shape).to(like.device)


def save(sparsifier: Sparsifier) -> dict[str, Any]:
    """All that exact continuation needs; randomness needs nothing, being derived from seed and step."""
    return {
        "version": _VERSION,
        "seed": sparsifier.seed,
        "total_steps": sparsifier.total_steps,
        "target_density": sparsifier.target_density,
        "method": repr(sparsifier.method),
        "shapes": {name: list(layer.info.shape) for name, layer in sparsifier.layers.items()},
        "steps": sparsifier.steps,
        "final": sparsifier._final,
        "leaky": sparsifier._leaky,
        "undecided": sparsifier._undecided,
        "budget": dict(sparsifier.budget),
        "allocation": dict(sparsifier.allocation),
        "proportions": dict(sparsifier._proportions),
        "masks": {name: pack(mask) for name, mask in sparsifier.topology.masks.items()},
        "explored": {name: pack(mask) for name, mask in sparsifier.topology.explored.items()},
        "kept": {name: pack(mask) for name, mask in sparsifier.topology.kept.items()},
        "support": {name: pack(support) for name, support in sparsifier.topology.support.items()},
        "initial": dict(sparsifier.topology.initial),
        "momentum": {name: average.clone() for name, average in sparsifier.signals.momentum.items()},
        "history": [asdict(report) for report in sparsifier.history],
        "removals": [asdict(removal) for removal in sparsifier.removals],
        "paths": dict(sparsifier.arrangement.paths),  # measured: exact continuation needs the same
    }


def load(sparsifier: Sparsifier, saved: Mapping[str, Any]) -> None:
    """Adopt a checkpoint made for the same layers, method, seed, length and density; else BadInput, unchanged."""
    if not isinstance(saved, Mapping):
        raise BadInput(f"checkpoint: expected what state_dict() gave, got {type(saved).__name__}")
    if saved.get("version") != _VERSION or "masks" not in saved:
        raise BadInput(
            f"checkpoint: expected a Sparsifier's state of version {_VERSION}, got {saved.get('version')}"
        )
    for field in ("seed", "total_steps", "target_density"):
        if saved[field] != getattr(sparsifier, field):
            raise BadInput(
                f"checkpoint: {field} is {saved[field]}, this Sparsifier's {getattr(sparsifier, field)}"
            )
    if saved["method"] != repr(sparsifier.method):
        raise BadInput(f"checkpoint: it is of another method: {saved['method']}, here {sparsifier.method!r}")
    shapes = {name: list(layer.info.shape) for name, layer in sparsifier.layers.items()}
    if saved["shapes"] != shapes:
        different = sorted(n for n in shapes | saved["shapes"] if saved["shapes"].get(n) != shapes.get(n))
        raise BadInput(f"checkpoint: its masks are for other layers: {', '.join(different)}")
    held = sparsifier.masks
    masks, explored, kept, support = (
        {name: unpack(bits, held[name]) for name, bits in saved[kind].items()}
        for kind in ("masks", "explored", "kept", "support")
    )
    if isinstance(sparsifier.arrangement, CompactArrangement):
        check_loadable(sparsifier.topology.support, support)
    momentum = {n: v.to(held[n].device, copy=True) for n, v in saved["momentum"].items()}
    history = [UpdateReport(**report) for report in saved["history"]]
    removals = [Removal(**removal) for removal in saved["removals"]]
    if isinstance(sparsifier.arrangement, CondensedArrangement):
        sparsifier.arrangement.adopt(saved.get("paths", {}), masks)
    # everything is read: from here on nothing fails, so nothing is half adopted
    sparsifier.steps, sparsifier._final, sparsifier._leaky = saved["steps"], saved["final"], saved["leaky"]
    sparsifier._undecided = saved["undecided"]
    sparsifier.budget, sparsifier.allocation = dict(saved["budget"]), dict(saved["allocation"])
    sparsifier._proportions = dict(saved["proportions"])
    sparsifier.topology = Topology.of(masks, explored, kept, saved["initial"], support)
    sparsifier.signals.momentum, sparsifier.history = momentum, history
    sparsifier.removals = removals
    with torch.no_grad():
        sparsifier._hold()
        if not sparsifier.method.dense:
            sparsifier._zero(masks)
    sparsifier._listen()
