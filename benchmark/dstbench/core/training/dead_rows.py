"""Dead rows kept silent: where a structure kills whole output rows, what follows them adds nothing either.

A dead row's convolution gives zero, but its bias and the bias of the norm behind it would still send a
constant on. After the last topology update, when no row can come back, both are held at zero, and so is the
norm's running mean: the row's output is exactly zero in training and in evaluation, and removing it is exact.
Before that they are left alone, since behind a ReLU a silent row would get no gradient by which to be grown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from dstbench.core.engine.structures import EngineStructure
from dstbench.core.network.flow import follow
from dstbench.core.network.layers import maskable_layers, unwrap
from dstbench.core.storage.bits import bits_of, keep
from dstbench.core.storage.states import States


@dataclass(frozen=True)
class RowVector:
    """A vector with one entry per output row of a layer: a bias, a norm's bias, or its running mean."""

    layer: str
    owner: nn.Module
    field: str

    @property
    def values(self) -> Tensor:
        """Float [out], a parameter or a buffer: whichever the module holds now, since moving it makes new ones."""
        values: Tensor = getattr(self.owner, self.field)
        return values


class DeadRows:
    """The vectors behind layers whose structure kills whole rows, and which of their entries are alive."""

    def __init__(self, model: nn.Module, structures: Mapping[str, EngineStructure]) -> None:
        self.vectors = row_vectors(model, [name for name, each in structures.items() if each.silences])
        self._alive: dict[str, Tensor] = {}  # bool [out as stored], by layer

    def hold(self, masks: Mapping[str, Tensor], left: Mapping[str, Tensor]) -> None:
        """Take the rows without a weight for dead; ``left``: the rows that are still stored, where some aren't."""
        alive = alive_rows(masks, self.vectors)
        self._alive = {name: rows[left[name]] if name in left else rows for name, rows in alive.items()}

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Every gradient with the bits to keep of it."""
        pairs = ((vector.values.grad, self._alive[vector.layer]) for vector in self.vectors)
        return [(gradient, bits_of(alive, gradient)) for gradient, alive in pairs if gradient is not None]

    def enforce(self) -> None:
        """Silence the dead rows again, in case someone wrote there."""
        values = ((vector.values.data, self._alive[vector.layer]) for vector in self.vectors)
        keep((value, bits_of(alive, value)) for value, alive in values)

    def zero(self, states: States) -> None:
        """Silence the dead rows: values and their optimizer state, in place."""
        for vector in self.vectors:
            states.clear(vector.values, self._alive[vector.layer])


def row_vectors(model: nn.Module, names: Iterable[str]) -> list[RowVector]:
    """The vectors to hold at zero with the dead rows of the named layers."""
    wanted = set(names)
    if not wanted:
        return []
    inner = unwrap(model)
    layers, behind = maskable_layers(inner), follow(inner).behind
    modules = dict(inner.named_modules())
    vectors = []
    for name in sorted(wanted):
        owners = [layers[name].module, *(modules[norm] for norm in behind.get(name, ()))]
        found = [
            RowVector(name, owner, field)
            for owner in owners
            for field in ("bias", "running_mean")
            if isinstance(getattr(owner, field, None), Tensor)
        ]
        if not any(
            _frozen(vector.values) for vector in found
        ):  # those keep what they say: the row isn't silent
            vectors += found
    return vectors


def _frozen(values: Tensor) -> bool:
    return isinstance(values, nn.Parameter) and not values.requires_grad


def alive_rows(masks: Mapping[str, Tensor], vectors: Iterable[RowVector]) -> dict[str, Tensor]:
    """Whether a row has an active weight: bool [out] by layer."""
    return {vector.layer: masks[vector.layer].flatten(1).any(1) for vector in vectors}
