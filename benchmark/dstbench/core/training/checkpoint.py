"""A Sparsifier's checkpoint: packed masks and plain values, no pickle needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dstbench.core.training.saved import Saved, as_saved
from dstbench.core.training.state import TrainingState
from dstbench.core.training.superset import Superset
from dstbench.core.training.topology import Topology
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
    memory: dict[str, Tensor]  # float [*w] by layer: what the method's values remember
    superset: Superset | None  # what trains besides the active weights
    totals: dict[str, dict[str, Tensor]]  # of accumulators: by name and layer, what expands to [*w]


def pack(mask: Tensor) -> Tensor:
    """A bool tensor as bits: uint8 [ceil(numel / 8)]."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpack(bits: Tensor, like: Tensor) -> Tensor:
    """The bool tensor that was packed, with the shape and device of ``like``.

    Raises BadInput where these aren't as many bits."""
    size = -(-like.numel() // 8)
    if bits.dtype != torch.uint8 or tuple(bits.shape) != (size,):
        raise BadInput(f"expected packed bits, uint8 [{size}], got {bits.dtype} {list(bits.shape)}")
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
        **_of_some(snapshot),
    }


def _of_some(snapshot: Snapshot) -> dict[str, Any]:
    """What only methods have whose scores accumulate, whose values remember, or whose weights train unseen."""
    saved: dict[str, Any] = {}
    if snapshot.totals:
        saved["totals"] = {
            name: {layer: total.clone() for layer, total in totals.items()}
            for name, totals in snapshot.totals.items()
        }
    if snapshot.memory:
        saved["memory"] = {name: value.clone() for name, value in snapshot.memory.items()}
    if (superset := snapshot.superset) is not None:
        saved["trained"] = {name: pack(mask) for name, mask in superset.masks.items()}
        saved["inactive"] = {name: value.clone() for name, value in superset.values.items()}
    return saved


def read(
    identity: Identity, saved: Mapping[str, Any], held: Mapping[str, Tensor], printed: str = ""
) -> Snapshot:
    """Read a checkpoint made for the same layers, method, seed, length and density; else BadInput.

    held: the masks there are, bool [*w] by layer; what is read has their shapes and devices. printed: the method's
    repr, by which version 2 knew it.
    """
    if not isinstance(saved, Mapping):
        raise BadInput(f"checkpoint: expected what state_dict() gave, got {type(saved).__name__}")
    version = saved.get("version")
    if type(version) is not int or version not in (2, _VERSION) or "masks" not in saved:
        raise BadInput(
            f"checkpoint: expected a Sparsifier's state of version {_VERSION}, got {_short(version)}"
        )
    fields = as_saved(_of_version_2(identity, saved, printed) if version == 2 else saved)
    _check_same(identity, fields)
    fields.check_layers(held)
    masks = _unpacked("masks", fields.masks, held)
    empty = next((name for name, mask in masks.items() if not bool(mask.any())), None)
    if empty is not None:
        raise BadInput(f"checkpoint: masks.{empty}: no weight is active")
    explored, kept, support = (
        _unpacked(kind, getattr(fields, kind), held) for kind in ("explored", "kept", "support")
    )
    state = TrainingState(
        books=fields.books,
        undecided=fields.undecided,
        steps=fields.steps,
        waits=fields.waits,
        history=tuple(fields.history),
        removals=tuple(fields.removals),
    )
    momentum, memory, inactive = (
        {name: _float(kind, name, value, held[name]) for name, value in getattr(fields, kind).items()}
        for kind in ("momentum", "memory", "inactive")
    )
    topology = Topology.of(masks, explored, kept, fields.initial, support)
    totals = {
        name: {layer: _total(f"{name}.{layer}", total, held[layer]) for layer, total in of.items()}
        for name, of in fields.totals.items()
    }
    trained = _unpacked("trained", fields.trained, held)
    superset = Superset(trained, inactive) if trained else None
    return Snapshot(state, topology, momentum, fields.paths, memory, superset, totals)


def _unpacked(kind: str, packed: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    masks = {}
    for name, bits in packed.items():
        try:
            masks[name] = unpack(bits, held[name])
        except BadInput as error:
            raise BadInput(f"checkpoint: {kind}.{name}: {error}") from None
    return masks


def _float(kind: str, name: str, value: Tensor, like: Tensor) -> Tensor:
    if not value.is_floating_point() or value.shape != like.shape:
        came = f"{value.dtype} {list(value.shape)}"
        raise BadInput(f"checkpoint: {kind}.{name}: expected float {list(like.shape)}, got {came}")
    return value.to(like.device, copy=True)


def _total(name: str, value: Tensor, like: Tensor) -> Tensor:
    fits = value.dim() == like.dim() and all(
        a in (1, b) for a, b in zip(value.shape, like.shape, strict=True)
    )
    if not fits:
        raise BadInput(f"checkpoint: totals.{name}: expected {list(like.shape)}, got {list(value.shape)}")
    return value.to(like.device, copy=True)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _of_version_2(identity: Identity, saved: Mapping[str, Any], printed: str) -> dict[str, Any]:
    """The same in today's form. Any change of the method's classes since then shows in ``printed``."""
    if saved.get("method") != printed:
        raise BadInput(f"checkpoint: it is of another method: {saved.get('method')}, here {printed}")
    books = {name: saved.get(name) for name in ("budget", "allocation", "proportions")}
    return {**saved, "method": identity.method, "books": {"density": saved.get("final"), **books}}


def _check_same(identity: Identity, saved: Saved) -> None:
    """Refuse another training's checkpoint, by what differs."""
    for field in ("seed", "total_steps", "target_density"):
        there, here = getattr(saved, field), getattr(identity, field)
        if there != here:
            raise BadInput(f"checkpoint: {field} is {there}, this Sparsifier's {here}")
    _check_method(identity.method, saved.method)
    if saved.shapes != identity.shapes:
        names = {**identity.shapes, **saved.shapes}
        different = sorted(n for n in names if saved.shapes.get(n) != identity.shapes.get(n))
        raise BadInput(f"checkpoint: its masks are for other layers: {', '.join(different)}")


def _check_method(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    for piece in {**here, **there}:
        if here.get(piece) != there.get(piece):
            raise BadInput(
                f"checkpoint: it is of another method: {piece} is {there.get(piece)}, here {here.get(piece)}"
            )
