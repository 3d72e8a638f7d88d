"""What runs in processes of its own: tasks by name, the functions that run and time a trial, and no ``__main__``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any


def load_task(task: str) -> Callable[..., dict[str, Any]]:
    """The function that ``module:function`` names."""
    module, _, name = task.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(import_module(module), name)
    return function


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Children import no ``__main__``: they don't need it, and a script without a guard would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
