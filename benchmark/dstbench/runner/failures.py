"""How a trial ended, as its record says it: every failure is a result, with its reason. Torch-free."""

from __future__ import annotations

import contextlib
import resource
import signal
import traceback
from typing import Any

from dstbench.errors import Infeasible, NotFinite, in_a_line

LOG = "log.txt"
"""In a trial's folder: what it printed."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def ending(
    status: str, reason: str | None = None, phase: str | None = None, trace: str | None = None
) -> dict[str, Any]:
    """The fields of a record that say how its trial ended. phase: "plan", "build", "train" or "evaluate"."""
    return {"status": status, "reason": reason, "phase": phase, "traceback": trace}


def failure(error: BaseException, phase: str | None = None) -> dict[str, Any]:
    """The ending of a trial that raised."""
    if is_out_of_memory(error):
        _make_room()
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        return ending("oom", in_a_line(error), phase, text)
    if isinstance(error, Infeasible):  # what was asked for can't exist: a density that empties a layer, say
        return ending("skipped", str(error), phase, text)
    if isinstance(error, Diverged | NotFinite):
        return ending("diverged", str(error), phase, text)
    return ending("failed", in_a_line(error), phase, text)


def died(code: int) -> tuple[str, str]:
    """Status and reason of a process that ended with this exit code, or -signal, and said nothing."""
    if code == -signal.SIGKILL:
        return "killed", "killed by SIGKILL, which is also how a system out of memory ends a process"
    if code < 0:
        known = {one.value: one.name for one in signal.Signals}
        return "killed", f"killed by {known.get(-code, f'signal {-code}')}; see {LOG}"
    return "killed", f"its process ended with exit code {code}; see {LOG}"


def _make_room() -> None:
    """Take away the limit of what this process may allocate: the exception's frames keep all that it holds alive, and
    its record needs a little more."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
