"""What a machine reaches at best, measured beside whatever is compared on it.

A ratio against a dense side that runs badly is no speed-up. So every row says which share of the peak each side
reaches, and what the peak and the memory would allow at best: the roofline of Williams, Waterman and Patterson
(CACM 52(4), 2009), with the rates that this machine showed in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dstbench.core.storage.timing import Call, time_interleaved

_SIDE = 1024  # of the square product
_COPIED = 2**24  # entries: 64 MB of float32, beyond any cache


@dataclass(frozen=True)
class Peak:
    """The best rates of the rounds in which something was timed."""

    flops: float  # a second, of a product of square matrices
    bytes: float  # a second, read and written, of a copy

    def share(self, flops: float, ms: float) -> float:
        """The share of the peak at which so many operations took so long."""
        return flops / self.flops / ms * 1e3

    def bound_ms(self, flops: float, moved: float) -> float:
        """The least time for so many operations on so many bytes, each moved once."""
        return max(flops / self.flops, moved / self.bytes) * 1e3


@dataclass(frozen=True)
class Work:
    """What a computation has to do."""

    flops: float  # operations, two a multiply-accumulate
    bytes: float = 0.0  # to be read and written at least


def median_ms(
    calls: Sequence[Call],
    options: argparse.Namespace,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[list[float], Peak]:
    """Milliseconds of each call, the median over interleaved rounds, and the machine's peak in the same rounds."""
    a, b = torch.randn(2, _SIDE, _SIDE, device=device, dtype=dtype)
    source = torch.ones(_COPIED, device=device)
    target = torch.empty_like(source)
    yardsticks: list[Call] = [lambda: a @ b, lambda: target.copy_(source)]
    *seconds, product, copy = time_interleaved([*calls, *yardsticks], options.rounds, options.warmup)
    peak = Peak(2 * _SIDE**3 / min(product), 2 * source.nbytes / min(copy))
    return [statistics.median(times) * 1e3 for times in seconds], peak


def compared(dense: Work, dense_ms: float, fast: Work, fast_ms: float, peak: Peak) -> dict[str, Any]:
    """How two sides stand to each other and to the machine: what a row says beside its milliseconds."""
    arithmetic = dense.flops / fast.flops
    ratio, share = dense_ms / fast_ms, peak.share(dense.flops, dense_ms)
    above = (
        f"above the {arithmetic:.1f}x of the arithmetic: dense runs at {share:.0%} of the machine's peak"
        if ratio > arithmetic
        else ""
    )
    return {
        "ratio": ratio,
        "arithmetic": arithmetic,
        "roofline": dense_ms / peak.bound_ms(fast.flops, fast.bytes),
        "dense_share": share,
        "fast_share": peak.share(fast.flops, fast_ms),
        "peak_gflops": peak.flops / 1e9,
        "peak_gbytes": peak.bytes / 1e9,
        "note": above,
    }
