"""What a storage does besides masking, behind one protocol; the plainest of them is here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from dstbench.core.storage.stored import Stored

Masks = Mapping[str, Tensor]  # layer name -> bool [*w]


class Arrangement(Protocol):
    """How a storage follows the topology, and gets at gradients that it doesn't hold."""

    @property
    def rows(self) -> Mapping[str, Tensor]:
        """int64 [kept]: the output rows that are left, of the layers that lost some."""
        ...

    @property
    def paths(self) -> Mapping[str, str]:
        """How each layer runs; those that aren't named run masked dense."""
        ...

    def stored(self) -> Iterable[Stored]:
        """All parameters and buffers that may hold less than their logical tensors."""
        ...

    def follow(self, masks: Masks, support: Masks) -> None:
        """Store by these masks and supports, bool [*w], from now on."""
        ...

    def collect(self, wanted: bool) -> None:
        """Whether the coming backward passes are to leave the gradients of weights that aren't stored."""
        ...

    def dense_gradient(self, name: str) -> Tensor | None:
        """What ``collect`` asked for, float [*w]; None where the parameter's own gradient is all that there is."""
        ...

    def state(self) -> dict[str, str]:
        """What exact continuation needs besides masks and supports, by layer name."""
        ...

    def adopt(self, state: Mapping[str, str], masks: Masks, support: Masks) -> None:
        """Get ready to ``follow`` a checkpoint's masks and supports. Raises BadInput, with nothing changed, where
        that can't be."""
        ...


class MaskedArrangement:
    """The dense weights: there is nothing to arrange, and the parameters' own gradients are dense."""

    rows: Mapping[str, Tensor] = MappingProxyType({})
    paths: Mapping[str, str] = MappingProxyType({})

    def stored(self) -> Iterable[Stored]:
        """None: every tensor is whole."""
        return ()

    def follow(self, masks: Masks, support: Masks) -> None:
        """Nothing moves."""

    def collect(self, wanted: bool) -> None:
        """Nothing to switch on: every backward pass leaves them."""

    def dense_gradient(self, name: str) -> Tensor | None:
        """None: the parameter's own is dense."""
        return None

    def state(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def adopt(self, state: Mapping[str, str], masks: Masks, support: Masks) -> None:
        """Dense weights take any masks, of a checkpoint of any storage."""
