"""Noticing weights that others wrote, without reading them all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PLACES = 64  # of inactive weights that are looked at, for each layer


class Watch:
    """Tells which layers may have been written to since it last looked.

    A tensor counts the writes to it, and new memory has another address. What goes around the counter, as ``.data``
    does, shows at a few inactive weights, which no longer are zero.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}  # how often written, and where, by layer
        self._places: dict[
            str, Tensor
        ] = {}  # int64 [some]: inactive weights, in the flattened tensor, by layer

    def hold(self, floats: Mapping[str, Tensor]) -> None:
        """The masks from now on, 0/1 by layer, shaped as stored."""
        draw, self._places = torch.Generator().manual_seed(0), {}
        for name, mask in floats.items():
            if mask.device.type == "cpu":
                some = torch.randint(mask.numel(), (16 * _PLACES,), generator=draw, device="cpu")
                self._places[name] = some[mask.take(some) == 0][:_PLACES]

    def look(self, weights: Mapping[str, Tensor]) -> None:
        """These values are known, [*as stored] by layer."""
        self._seen = {name: _written(weight) for name, weight in weights.items()}

    def written(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The layers that aren't known to hold what they held. On an accelerator they are all named: to look would
        wait for it, and to write needn't."""
        return [
            name
            for name, weight in weights.items()
            if name not in self._places
            or self._seen.get(name) != _written(weight)
            or bool(weight.detach().take(self._places[name]).any())
        ]


def _written(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()
