"""The storage ``compact``: channels that a structure removed for good leave the live network, which gets faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.api import Coupling
from dstbench.core.network.cut import fit_widths, kept_positions
from dstbench.core.storage.stored import Stored, Weights
from dstbench.errors import BadInput

_STORED = "_dstbench_stored"  # where a module keeps what of it may be sliced, by field


class CompactArrangement:
    """Slices parameters, buffers and optimizer state to the channels that are left, whenever the support shrinks.

    A parameter stays the same object with new memory. Modules' state dicts stay logical, removed channels reading as
    zeros (running variances as ones), so that a checkpoint fits a model of any storage. Streams, which norms run
    over, stay as wide as they were, silent where they are gone.
    """

    def __init__(self, model: nn.Module, couplings: Sequence[Coupling], weights: Weights) -> None:
        self._couplings, self._weights = [c for c in couplings if not c.stream], weights
        self._vectors = {c: _vectors(model, c, weights) for c in self._couplings}
        frozen = [
            vector.owner for vectors in self._vectors.values() for vector in vectors if _frozen(vector.values)
        ]
        if frozen:
            raise BadInput(
                f"storage: 'compact' would cut out frozen parameters, of {type(frozen[0]).__name__}; use 'masked'"
            )
        self._kept: dict[str, Tensor] = {}  # int64 [kept] rows, of the layers that lost some
        self._support: dict[str, Tensor] = {}  # bool [*w], of the layers that lost positions
        self.generation = 0  # how often the network shrank
        for stored in self.stored():
            _keep_state_dict_logical(stored)

    def stored(self) -> list[Stored]:
        """All that may be sliced."""
        names = {name for coupling in self._couplings for name in (*coupling.producers, *coupling.consumers)}
        vectors = [vector for vectors in self._vectors.values() for vector in vectors]
        return [*(self._weights.stored[name] for name in sorted(names)), *vectors]

    def follow(self, masks: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> None:
        """Slice to what ``support``, bool [*w] of the layers that lost positions, leaves."""
        self._support = dict(support)
        alive_of = ((coupling, _alive(coupling, support)) for coupling in self._couplings)
        left = {coupling: alive for coupling, alive in alive_of if alive is not None}
        rows = {name: alive for coupling, alive in left.items() for name in coupling.producers}
        columns = {name: alive for coupling, alive in left.items() for name in coupling.consumers}
        if all(int(alive.sum()) == len(self._kept.get(name, alive)) for name, alive in rows.items()):
            return
        self._kept = {name: alive.nonzero().flatten() for name, alive in rows.items()}
        for coupling, alive in left.items():
            for vector in self._vectors[coupling]:
                self._keep(vector, alive)
        for name in sorted(rows.keys() | columns.keys()):
            self._keep(self._weights.stored[name], rows.get(name), columns.get(name))
        self.generation += 1

    def collect(self, wanted: bool) -> None:
        """Nothing to switch on: every backward pass leaves the gradients of all channels that are left."""

    def dense_gradient(self, name: str) -> Tensor | None:
        """The parameter's own: removed channels need none."""
        return None

    def state(self) -> dict[str, str]:
        """Nothing: the support says what is left."""
        return {}

    def adopt(
        self, state: Mapping[str, str], masks: Mapping[str, Tensor], support: Mapping[str, Tensor]
    ) -> None:
        """Refuse a support, bool [*w] of the layers that lost positions, that has what was cut out here."""
        gone = [
            name
            for name, mask in self._support.items()
            if name not in support or bool((support[name] & ~mask).any())
        ]
        if gone:
            raise BadInput(
                f"checkpoint: it has channels of {', '.join(gone)} that are cut out here: load it into a new model"
            )

    @property
    def rows(self) -> Mapping[str, Tensor]:
        """The rows that are left, of the layers that lost some."""
        return self._kept

    @property
    def paths(self) -> Mapping[str, str]:
        """``compacted`` for each layer that lost rows."""
        return dict.fromkeys(self._kept, "compacted")

    def _keep(self, stored: Stored, rows: Tensor | None, columns: Tensor | None = None) -> None:
        """Keep rows, bool [out], and the columns that channels, bool [C], feed."""
        positions = kept_positions(stored.shape, rows, columns)
        stored.relocate(positions.to(stored.values.device), self._weights.states)
        fit_widths(stored.owner)


def _frozen(values: Tensor) -> bool:
    return isinstance(values, nn.Parameter) and not values.requires_grad


def _alive(coupling: Coupling, support: Mapping[str, Tensor]) -> Tensor | None:
    """The channels that are not gone from all producers and all consumers of a coupling: bool [C]; None: all."""
    if not {*coupling.producers, *coupling.consumers} <= support.keys():
        return None
    rows = [support[name].flatten(1).any(1) for name in coupling.producers]
    columns = [support[name].transpose(0, 1).flatten(1).any(1) for name in coupling.consumers]
    alive = torch.stack([*rows, *(column.view(len(rows[0]), -1).any(1) for column in columns)]).any(0)
    return None if bool(alive.all()) else alive


def _vectors(model: nn.Module, coupling: Coupling, weights: Weights) -> list[Stored]:
    """What has one entry for each channel: producers' biases, norms' parameters and running statistics."""
    modules = dict(model.named_modules())
    owners = {weights.stored[name].owner: ("bias",) for name in coupling.producers} | {
        modules[path]: ("weight", "bias", "running_mean", "running_var") for path in coupling.norms
    }
    return [
        Stored(owner, field, absent=float(field == "running_var"))
        for owner, fields in owners.items()
        for field in fields
        if isinstance(getattr(owner, field, None), Tensor)
    ]


def _keep_state_dict_logical(stored: Stored) -> None:
    """Make the owner's state dict give, and take, the logical tensor. A copy of the owner keeps its own."""
    owner = stored.owner
    if _STORED not in owner.__dict__:
        owner.__dict__[_STORED] = {}
        owner.register_state_dict_post_hook(_saved)  # type: ignore[no-untyped-call]
        owner.register_load_state_dict_pre_hook(_loading)  # type: ignore[no-untyped-call]
    owner.__dict__[_STORED][stored.field] = stored


def _saved(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for field, stored in module.__dict__[_STORED].items():
        state_dict[prefix + field] = stored.logical(state_dict[prefix + field])


def _loading(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for field, stored in module.__dict__[_STORED].items():
        value = state_dict.get(prefix + field)
        if isinstance(value, Tensor) and tuple(value.shape) == stored.shape:
            state_dict[prefix + field] = stored.physical(value.to(stored.values.device))
