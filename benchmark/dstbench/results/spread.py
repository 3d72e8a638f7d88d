"""Work over the processors of this machine, by copies of this process. Torch-free."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from typing import TypeVar

MOST = 4  # processes, this one among them
FEWEST = 1000
"""Of things, such as records, for each process: with fewer it isn't worth one."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def spread(function: Callable[[_T], _R], things: Sequence[_T]) -> list[_R]:
    """``[function(thing) for thing in things]``; where they are many, by several processes.

    function: free of effects; what it gives can be pickled.
    """
    share = -(-len(things) // max(1, min(MOST, _processors(), len(things) // FEWEST)))
    parts = [things[start : start + share] for start in range(0, len(things), share or 1)]
    with uncollected():
        later = [alongside(lambda part=part: [function(thing) for thing in part]) for part in parts[1:]]  # type: ignore[misc]
        made = [function(thing) for thing in things[:share]]
        for answer in later:
            made += answer()
    return made


def is_many(things: Sequence[object]) -> bool:
    """Whether so many things are worth another process."""
    return len(things) > FEWEST


def alongside(task: Callable[[], _R], worth: bool = True) -> Callable[[], _R]:
    """Start ``task``, which has no effects, in a copy of this process; calling what is returned waits for its answer.

    Only then, and here, is it done where there is no second processor, it isn't ``worth`` it, this process can't be
    copied safely, or the copy fails: what the task raises is raised here.
    """
    if not (worth and _processors() > 1 and _may_fork()):
        return task
    answers, ours = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_work, args=(task, ours), daemon=True)
    process.start()
    ours.close()

    def answer() -> _R:
        content = b""
        with answers, suppress(EOFError):
            content = answers.recv_bytes()
        process.join()
        if not content:
            return task()
        made: _R = pickle.loads(content)
        return made

    return answer


def _work(task: Callable[[], object], answers: Connection) -> None:
    """In the copy: nothing is said where the task fails, for then it is done again where it can be told."""
    with suppress(Exception), uncollected():
        answers.send_bytes(pickle.dumps(task(), pickle.HIGHEST_PROTOCOL))


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


def _may_fork() -> bool:
    """A copy has none of the other threads and all of their locks: only what has no threads is copied. torch has
    some that Python doesn't know of, and macOS's own libraries don't allow it."""
    return (
        sys.platform == "linux"
        and threading.active_count() == 1
        and "torch" not in sys.modules
        and not current_process().daemon
    )


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
