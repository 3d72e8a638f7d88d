"""Where the weights of a sparse network are, and which it ever tried: exploration and channel statistics.

Pure functions of masks and weights; the Sparsifier knows R_s and what was never dropped, a trial records both
with the statistics below after every epoch. A *channel* is an output row of a layer: a convolution's channel
or a hidden unit. A classifier's rows are classes, and a transposed convolution's outputs lie in the second
dimension: neither counts.

"Up to 60 % of channels are sparser than others" (CHASE, arXiv 2305.19454) says little by itself: half the
channels of a random mask lie below the mean, too. So every fraction comes with the one that chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dstbench.api import LayerInfo

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

THRESHOLDS = ((1, 1), (4, 5), (1, 2))  # of the mean density, as fractions: comparisons are exact
BOTTOM = 0.3  # the fraction of a layer's channels that the bottom set holds; CHASE removes 0.3 to 0.5


@dataclass(frozen=True)
class ChannelStatistics:
    """How evenly active weights lie on the channels of a layer, or of several. All but ``channels`` in [0, 1],
    ``cv`` >= 0.

    ``below_80`` is the fraction of channels with a density strictly below 0.8 times the mean of their layer;
    ``null_80`` what to expect of it if every weight were active independently, P(X < 0.8 · fan_in · d) with
    X ~ Binomial(fan_in, d). Exact masks vary a little less than that, by the factor 1 − 1/channels.
    """

    channels: int
    below_100: float
    below_80: float
    below_50: float
    null_100: float
    null_80: float
    null_50: float
    gini: float  # of the channels' densities: 0 = all equal
    cv: float  # their standard deviation / mean
    dead: float  # fraction without an active weight


def has_channels(layer: LayerInfo) -> bool:
    """Whether the output rows of a layer are channels."""
    return not layer.classifier and layer.kind != "conv_transpose"


def channel_counts(mask: Tensor) -> Counts:
    """The active weights of each channel: mask, bool [out, *w], to int64 [out]."""
    rows = mask.detach().flatten(1)
    on_cpu = rows.device.type == "cpu"  # where numpy is nine times faster than torch
    counts = np.count_nonzero(rows.numpy(), axis=1) if on_cpu else rows.count_nonzero(dim=1).cpu().numpy()
    return np.asarray(counts, dtype=np.int64)


def channel_statistics(counts: Counts, fan_in: int) -> ChannelStatistics:
    """The statistics of one layer. counts: active weights of each channel, int64 [out], each <= fan_in."""
    counts = np.sort(counts)  # the order of channels doesn't matter, not even by rounding
    channels, active = len(counts), int(counts.sum())
    below = [float(np.mean(counts * channels * q < p * active)) for p, q in THRESHOLDS]
    null = [_chance_below(p, q, channels, fan_in, active) for p, q in THRESHOLDS]
    spread = float(np.std(counts)) * channels / active if active else 0.0
    dead = float(np.mean(counts == 0))
    return ChannelStatistics(channels, *[*below, *null, gini(counts), spread, dead])


def _chance_below(p: int, q: int, channels: int, fan_in: int, active: int) -> float:
    """P(X < p/q · active/channels), X ~ Binomial(fan_in, active / (channels · fan_in))."""
    from scipy.special import bdtr

    largest = (p * active - 1) // (q * channels)  # the largest count that is below
    return float(bdtr(float(largest), fan_in, active / (channels * fan_in))) if largest >= 0 else 0.0


def gini(values: Counts) -> float:
    """The Gini coefficient of values >= 0, [n]: Σ (2i − n − 1) x_(i) / (n Σ x), i from 1; 0 where all are 0."""
    n, total = len(values), float(values.sum())
    if total == 0:
        return 0.0
    places = 2.0 * np.arange(1, n + 1) - n - 1
    return float(places @ np.sort(values)) / (n * total)


def pooled(layers: Sequence[ChannelStatistics]) -> ChannelStatistics | None:
    """The mean over all channels of several layers, each measured within its own; None without a channel.

    Fractions are thereby those of all channels together. Gini and CV are means of the layers' by their
    channels: what layers differ in, which an allocation decides, doesn't count.
    """
    weights = [layer.channels for layer in layers]
    if not sum(weights):
        return None
    means = np.average([astuple(layer)[1:] for layer in layers], axis=0, weights=weights)
    return ChannelStatistics(sum(weights), *(float(value) for value in means))


def umm(weight: Tensor) -> Floats:
    """CHASE's unified mean magnitude of each channel: Σ|w| / (weights of a channel, inactive ones too).

    weight: float [out, *w] with zeros where it is inactive. Returns float64 [out].
    """
    means = weight.detach().flatten(1).abs().mean(1, dtype=torch.float32)
    return np.asarray(means.cpu().numpy(), dtype=np.float64)


def bottom_set(scores: Floats, fraction: float = BOTTOM) -> Flags:
    """The round(fraction · n) channels with the lowest scores, bool [n]; the lowest index first on a tie.

    It is taken within a layer. CHASE ranks over all layers at once, but fan-in and allocation decide much of
    that order, which then hardly changes: the overlap of two such sets would say little about channels.
    """
    chosen = np.zeros(len(scores), dtype=np.bool_)
    chosen[np.argsort(scores, kind="stable")[: round(fraction * len(scores))]] = True
    return chosen


def overlap(one: Flags, other: Flags) -> float | None:
    """The share of one set that lies in another of the same size, bool [n] each; None where they are empty.

    Two random sets share ``BOTTOM`` of their members on average.
    """
    size = int(one.sum())
    return float((one & other).sum()) / size if size else None
