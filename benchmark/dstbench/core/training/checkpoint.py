"""A Sparsifier's checkpoint: packed masks and plain values, no pickle needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dstbench.core.engine.books import Books
from dstbench.core.training.state import TrainingState
from dstbench.core.training.support import Removal
from dstbench.core.training.topology import Topology, UpdateReport
from dstbench.errors import BadInput

_VERSION = 3


@dataclass(frozen=True)
class Identity:
    """What two trainings share where one can continue the other."""

    seed: int
    total_steps: int
    target_density: float
    method: Mapping[str, Any]  # see ``identify``
    shapes: Mapping[str, list[int]]  # by layer


@dataclass(frozen=True)
class Snapshot:
    """All that exact continuation needs; randomness needs nothing, being derived from seed and step."""

    state: TrainingState
    topology: Topology
    momentum: dict[str, Tensor]  # float [*w] by layer
    paths: Mapping[str, str]  # the arrangement's own state


def pack(mask: Tensor) -> Tensor:
    """A bool tensor as bits: uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpack(bits: Tensor, like: Tensor) -> Tensor:
    """The bool tensor that was packed, with the shape and device of ``like``."""
    flat = np.unpackbits(bits.cpu().numpy(), count=like.numel())
    return torch.from_numpy(flat.astype(bool)).view(like.shape).to(like.device)


def save(identity: Identity, snapshot: Snapshot) -> dict[str, Any]:
    """Copies, that further training doesn't change."""
    masks = snapshot.topology.state()
    return {
        "version": _VERSION,
        **asdict(identity),
        **asdict(snapshot.state),
        **{kind: {name: pack(mask) for name, mask in masks[kind].items()} for kind in masks},
        "initial": dict(snapshot.topology.initial),
        "momentum": {name: average.clone() for name, average in snapshot.momentum.items()},
        "paths": dict(snapshot.paths),
    }


def read(
    identity: Identity, saved: Mapping[str, Any], held: Mapping[str, Tensor], printed: str = ""
) -> Snapshot:
    """Read a checkpoint made for the same layers, method, seed, length and density; else BadInput.

    held: the masks there are, bool [*w] by layer; what is read has their shapes and devices. printed: the method's
    repr, by which version 2 knew it.
    """
    if not isinstance(saved, Mapping):
        raise BadInput(f"checkpoint: expected what state_dict() gave, got {type(saved).__name__}")
    if saved.get("version") == 2:
        saved = _of_version_2(identity, saved, printed)
    if saved.get("version") != _VERSION or "masks" not in saved:
        raise BadInput(
            f"checkpoint: expected a Sparsifier's state of version {_VERSION}, got {saved.get('version')}"
        )
    _check_same(identity, saved)
    masks, explored, kept, support = (
        {name: unpack(bits, held[name]) for name, bits in saved[kind].items()}
        for kind in ("masks", "explored", "kept", "support")
    )
    state = TrainingState(
        Books(**saved["books"]),
        saved["undecided"],
        saved["steps"],
        tuple(UpdateReport(**report) for report in saved["history"]),
        tuple(Removal(**removal) for removal in saved["removals"]),
    )
    momentum = {name: value.to(held[name].device, copy=True) for name, value in saved["momentum"].items()}
    return Snapshot(
        state, Topology.of(masks, explored, kept, saved["initial"], support), momentum, saved["paths"]
    )


def _of_version_2(identity: Identity, saved: Mapping[str, Any], printed: str) -> dict[str, Any]:
    """The same in today's form. Any change of the method's classes since then shows in ``printed``."""
    if saved["method"] != printed:
        raise BadInput(f"checkpoint: it is of another method: {saved['method']}, here {printed}")
    books = {name: saved[name] for name in ("budget", "allocation", "proportions")}
    return {
        **saved, "version": _VERSION, "method": identity.method, "books": {"density": saved["final"], **books}
    }  # fmt: skip


def _check_same(identity: Identity, saved: Mapping[str, Any]) -> None:
    """Refuse another training's checkpoint, by what differs."""
    for field in ("seed", "total_steps", "target_density"):
        if saved[field] != getattr(identity, field):
            raise BadInput(
                f"checkpoint: {field} is {saved[field]}, this Sparsifier's {getattr(identity, field)}"
            )
    here, there = identity.method, saved["method"]
    for piece in here | there:
        if here.get(piece) != there.get(piece):
            raise BadInput(
                f"checkpoint: it is of another method: {piece} is {there.get(piece)}, here {here.get(piece)}"
            )
    if saved["shapes"] != identity.shapes:
        names = identity.shapes | saved["shapes"]
        different = sorted(n for n in names if saved["shapes"].get(n) != identity.shapes.get(n))
        raise BadInput(f"checkpoint: its masks are for other layers: {', '.join(different)}")
