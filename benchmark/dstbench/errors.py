"""Errors that speak to the person who typed the input. Torch-free."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable

_OURS = re.compile(r".*[/\\](dstbench\w*[/\\].*)")  # a file of ours, below its package


class BadInput(ValueError):
    """Something a user wrote is wrong: the message names the field, what was expected and what came."""


class StrategyError(ValueError):
    """A strategy broke its contract, or was asked for something it can't do. Names it and the layer."""


class NotFinite(StrategyError):
    """Weights or gradients are infinite or NaN, so nothing can be decided by them: the training has diverged."""


class Infeasible(StrategyError):
    """What was asked for can't exist here, such as a budget outside all bounds; the message gives the figures.
    A trial that meets it is skipped."""


def in_a_line(error: BaseException) -> str:
    """An exception's name and the first line of what it says: torch's may go on with frames of C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def fault(error: BaseException) -> str:
    """An exception that nothing a user wrote explains, in a line, with the place where it was raised."""
    frames = [
        (path, frame)
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := _OURS.search(frame.filename)) is not None
    ]
    place = "".join(f" ({path[1]}:{frame.lineno}, in {frame.name})" for path, frame in frames[-1:])
    return f"{in_a_line(error)}{place}: a fault of dstbench, not of the record"


def nearest(name: str, choices: Iterable[str]) -> str:
    """End of an error message: the names nearest to ``name``, or all of them where none is near."""
    known = sorted(set(choices))
    spelled = {choice.casefold(): choice for choice in known}
    folded = difflib.get_close_matches(name.casefold(), spelled, n=3, cutoff=0.5)
    close = [spelled[choice] for choice in folded]
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known)}" if known else ""


class DataUnavailable(FileNotFoundError):
    """A data set's files aren't there: what was looked for, where, and how to get them."""
