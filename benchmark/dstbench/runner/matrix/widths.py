"""Which models have a small-dense control."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstbench.api import ModelFactory


def why_not(factory: ModelFactory) -> str | None:
    """Why a model has no small-dense control; None where it has one."""
    if "width" in inspect.signature(factory).parameters:
        return None
    return (
        f"model {_name(factory)} takes no `width`, so it has no small-dense control: leave that control "
        "out, or choose a model with `width`"
    )


def _name(factory: ModelFactory) -> str:
    """What to call a factory in a message: its function, and what it was given."""
    if isinstance(factory, functools.partial):
        given = "".join(f", {key}={value!r}" for key, value in factory.keywords.items())
        return f"{_name(factory.func)}{given}"
    return getattr(factory, "__name__", repr(factory))
