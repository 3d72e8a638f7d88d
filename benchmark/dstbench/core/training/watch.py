"""Noticing weights that others wrote, without reading them all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PLACES = 64  # of inactive weights that are looked at, for each layer
_SMALL = 2**16  # weights in a layer that are zeroed in no more time than it takes to look at them


class Watch:
    """Tells which layers may have been written to since it last looked.

    A tensor counts the writes to it, and new memory has another address. What goes around the counter, as ``.data``
    does, shows at a few inactive weights, which no longer are zero. Where a look costs more than to write zeros, as
    in small layers and on accelerators, which would be waited for, layers are ``unwatched`` so.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}  # how often written, and where, by layer
        self._places: dict[
            str, Tensor
        ] = {}  # int64 [some]: inactive weights, in the flattened tensor, by layer
        self.watched: tuple[str, ...] = ()
        self.unwatched: tuple[str, ...] = ()  # layers that need zeros written at every step

    def hold(self, floats: Mapping[str, Tensor]) -> None:
        """The masks from now on, 0/1 by layer, shaped as stored."""
        draw, self._places = torch.Generator().manual_seed(0), {}
        for name, mask in floats.items():
            if mask.device.type == "cpu" and mask.numel() > _SMALL:
                some = torch.randint(mask.numel(), (16 * _PLACES,), generator=draw, device="cpu")
                self._places[name] = some[mask.take(some) == 0][:_PLACES]
        self.watched = tuple(self._places)
        self.unwatched = tuple(name for name in floats if name not in self._places)

    def look(self, weights: Mapping[str, Tensor]) -> None:
        """These values are known, [*as stored] by layer."""
        self._seen = {name: _written(weight) for name, weight in weights.items()}

    def written(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The layers that aren't known to hold what they held."""
        return [
            name
            for name, weight in weights.items()
            if self._seen.get(name) != _written(weight)
            or (name in self._places and bool(weight.detach().take(self._places[name]).any()))
        ]


def _written(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()
