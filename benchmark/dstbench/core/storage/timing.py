"""Timing calls side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]
_SHORTEST = 5e-3  # seconds; shorter calls are repeated within one timing until they last this long
_LONGEST = 0.2  # seconds after which no call is repeated: a machine that turns busy can make one very slow


def time_interleaved(calls: Sequence[Call], rounds: int, warmup: int) -> list[list[float]]:
    """Seconds of each call in each round. Every round times all of them, in an order that rotates."""
    return time_rounds(calls, warm_up(calls, warmup), rounds)


def warm_up(calls: Sequence[Call], warmup: int, shortest: float = _SHORTEST) -> list[int]:
    """Make each call ``warmup`` times, at least once; returns how often each is to be repeated within one timing, to
    last ``shortest`` seconds and so outlast the clock's noise."""
    for _ in range(max(1, warmup)):
        for call in calls:
            call()
    return [max(1, round(shortest / max(1e-7, _timed(call, 1)))) for call in calls]


def time_rounds(
    calls: Sequence[Call],
    repeats: Sequence[int],
    rounds: int,
    enough: Callable[[Sequence[list[float]]], bool] | None = None,
) -> list[list[float]]:
    """Seconds of each call in each round, as the mean of so many ``repeats``; fewer rounds where those that there are
    say ``enough``."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for index in [(turn + offset) % len(calls) for offset in range(len(calls))]:
            seconds[index].append(_timed(calls[index], repeats[index]))
        if enough is not None and enough(seconds):
            break
    return seconds


def _timed(call: Call, repeats: int) -> float:
    _wait()
    start = time.perf_counter()
    done = 0
    while done < repeats and (done == 0 or time.perf_counter() - start < _LONGEST):
        call()
        done += 1
    _wait()
    return (time.perf_counter() - start) / done


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
