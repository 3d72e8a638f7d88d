"""What a training explores, epoch by epoch: R_s, what was never dropped, channels, and their bottom set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dstbench.core.network import channel_statistics as channels
from dstbench.core.network.channel_statistics import ChannelStatistics
from dstbench.core.training.sparsifier import Sparsifier

EARLY = 0.25  # of the epochs, rounded up: when ``bottom_early`` looks

Point = dict[str, Any]
_NONE = np.zeros(0, dtype=np.bool_)  # the bottom sets of a network without channels


@dataclass
class Exploration:
    """One point an epoch, the first before training; checkpointed with the trial.

    A dense training has none, nor has one before its first step if the init waits for a gradient.
    """

    points: list[Point] = field(default_factory=list)
    bottoms: list[Tensor] = field(default_factory=list)  # uint8: bits of the channels of all layers in turn

    def observe(self, epoch: int, sparsifier: Sparsifier) -> Point:
        """Add the point of an epoch that ended, and return it."""
        if sparsifier.method.dense or not sparsifier.decided:
            return {}
        bottoms = [
            channels.bottom_set(channels.umm(sparsifier.weights.logical(name)))
            for name, layer in sparsifier.layers.items()
            if channels.has_channels(layer.info)
        ]
        self.bottoms.append(torch.from_numpy(np.packbits(np.concatenate([_NONE, *bottoms]))))
        statistics = channels.pooled([part for part in channel_statistics(sparsifier).values() if part])
        point = {
            "epoch": epoch,
            "r_s": _round(sparsifier.r_s),
            "never_dropped": _round(sparsifier.never_dropped),
            "bottom_previous": self._overlap(-1, -2) if self.points else None,
            "channels": plain(statistics),
        }
        self.points.append(point)
        return point

    def measures(self) -> dict[str, Any]:
        """The fields of the record; in ``exploration`` each figure is a list over epochs."""
        if not self.points:
            return {}
        final = [self._overlap(-1, index) for index in range(len(self.bottoms))]
        last, early = self.points[-1], _early([point["epoch"] for point in self.points])
        figures = [
            {
                **{name: value for name, value in point.items() if name != "channels"},
                **(point["channels"] or {}),
            }
            for point in self.points
        ]
        return {
            "never_dropped": last["never_dropped"],
            "channels": last["channels"],
            "bottom_early": final[early] if early < len(final) - 1 else None,
            "exploration": {
                **{name: [row[name] for row in figures] for name in figures[0] if name != "channels"},
                "bottom_final": final,
            },
        }

    def _overlap(self, one: int, other: int) -> float | None:
        """The share of one point's bottom sets in another's, pooled over layers."""
        sets = [np.unpackbits(self.bottoms[index].cpu().numpy()).astype(np.bool_) for index in (one, other)]
        share = channels.overlap(*sets)
        return None if share is None else round(share, 5)


def _early(epochs: list[int]) -> int:
    """The index of the first epoch after a quarter of the training."""
    return next(index for index, epoch in enumerate(epochs) if epoch >= EARLY * epochs[-1])


def channel_statistics(sparsifier: Sparsifier) -> dict[str, ChannelStatistics | None]:
    """The statistics of every layer's channels now; None for a layer whose rows aren't channels."""
    return {
        name: channels.channel_statistics(channels.channel_counts(mask), mask[0].numel())
        if channels.has_channels(sparsifier.layers[name].info)
        else None
        for name, mask in sparsifier.masks.items()
    }


def plain(statistics: ChannelStatistics | None) -> dict[str, float] | None:
    """Statistics as the fields of a record."""
    return None if statistics is None else {name: _round(value) for name, value in vars(statistics).items()}


def _round(value: Any) -> Any:
    """Floats to five decimals: records are for reading, too."""
    return round(value, 5) if isinstance(value, float) else value
