"""A function of many things, over the processors of this machine. Torch-free."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

MOST = 4  # processes, this one among them
FEWEST = 1500
"""Of things for each process: with fewer, starting one takes longer than it saves."""
_BATCH = 500
_COMMAND = "from dstbench.results.spread import serve; serve()"

_T = TypeVar("_T")
_R = TypeVar("_R")


def spread(function: Callable[[_T], _R], things: Sequence[_T]) -> list[_R]:
    """``[function(thing) for thing in things]``; where they are many, with the help of other processes.

    function: of a module, free of effects; what it takes and gives can be pickled. The helpers are plain Python
    processes: a fork would copy threads' locks, and multiprocessing's would run the caller's script again. What one
    of them fails at is done here.
    """
    processes = max(1, min(MOST, _processors(), len(things) // FEWEST))
    share = -(-len(things) // processes)
    first, *others = [things[start : start + share] for start in range(0, len(things), share)] or [things]
    with (
        ThreadPoolExecutor(max(1, len(others))) as waiting,
        uncollected(),
    ):  # a thread waits for a process each
        helped = [waiting.submit(_help, function, part) for part in others]
        made = [function(thing) for thing in first]
        for part, answer in zip(others, helped, strict=True):
            made += _unpickled(answer.result(), len(part)) or map(function, part)
    return made


def serve() -> None:
    """In a helper: from a pickled function and its things on stdin to batches of what it made of them on stdout."""
    function, things = pickle.load(sys.stdin.buffer)
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # what is printed is no answer
    with uncollected():
        for start in range(0, len(things), _BATCH):
            made = [function(thing) for thing in things[start : start + _BATCH]]
            pickle.dump(made, out, pickle.HIGHEST_PROTOCOL)


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, Python looks for no cycles: where millions of values are made and none is in one, a fifth of the time
    would go into that."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _help(function: Callable[[_T], _R], things: Sequence[_T]) -> bytes:
    """What a helper answers; nothing where it can't start or fails."""
    path = os.pathsep.join(filter(None, sys.path))
    with suppress(OSError):
        helper = subprocess.run(
            [sys.executable, "-c", _COMMAND],
            input=pickle.dumps((function, things)),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        if helper.returncode == 0:
            return helper.stdout
    return b""


def _unpickled(answer: bytes, count: int) -> list[Any]:
    """The batches of an answer as one list; [] where it isn't whole."""
    made: list[Any] = []
    batches = io.BytesIO(answer)
    try:
        while len(made) < count:
            made += pickle.load(batches)
    except EOFError:
        return []
    return made


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
