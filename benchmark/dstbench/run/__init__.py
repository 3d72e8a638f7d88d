"""From a matrix file to results: configuration, plan, data, one trial, measurement, executors."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Importing this package binds it to ``dstbench.run``; ``dstbench.run("quick")`` must work all the same."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``dstbench.run.session.run``."""
        from dstbench.run.session import run

        return run(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
