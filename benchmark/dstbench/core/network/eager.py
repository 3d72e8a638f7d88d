"""What a compiler is to leave alone, said without loading the compiler."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo  # private: torch.compiler.disable imports the compiler at once

_T = TypeVar("_T")
_P = ParamSpec("_P")


def eagerly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """``torch.compiler.disable`` for a function of ours. That imports torch._dynamo, 1.3 s of every process, where it
    is written; this neither where it is written nor where nothing is compiled."""
    apart = _disable_dynamo(function)

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        return apart(*args, **kwargs)

    return called
