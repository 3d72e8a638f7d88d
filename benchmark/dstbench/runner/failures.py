"""How a trial ended, as its record says it: every failure is a result, with its reason. Torch-free."""

from __future__ import annotations

import traceback
from typing import Any

from dstbench.errors import Infeasible, in_a_line


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def ending(
    status: str, reason: str | None = None, phase: str | None = None, trace: str | None = None
) -> dict[str, Any]:
    """The fields of a record that say how its trial ended. phase: "plan", "build", "train" or "evaluate"."""
    return {"status": status, "reason": reason, "phase": phase, "traceback": trace}


def failure(error: BaseException, phase: str | None = None) -> dict[str, Any]:
    """The ending of a trial that raised."""
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        return ending("oom", in_a_line(error), phase, text)
    if isinstance(error, Infeasible):  # what was asked for can't exist: a density that empties a layer, say
        return ending("skipped", str(error), phase, text)
    if isinstance(error, Diverged):
        return ending("diverged", str(error), phase, text)
    return ending("failed", in_a_line(error), phase, text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
