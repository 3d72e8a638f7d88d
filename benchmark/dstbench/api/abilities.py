"""Optional abilities: what a strategy may declare or do besides its protocol, whose docstring says what they mean.

The one place that looks attributes of strategies up by name. Two doors use it, ``Policy`` and the engine's
``as_structure``; what they return is typed, so nothing behind them has to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from dstbench.errors import BadInput

ABILITIES = {
    "score": ("needs", "full"),
    "share": ("needs", "uses_candidates"),
    "structure": (
        *("misfit", "accelerate", "whole_rows"),  # of a Layout, too
        "quota",  # of a Layout alone
        *("retiles", "merge", "allowed"),  # of a Structure alone
        *("events", "support"),  # which make it a Support
    ),
}

_Value = TypeVar("_Value")


def declared(component: object, name: str, default: _Value) -> _Value:
    """An ability that is a value, such as ``retiles = True``. Raises BadInput unless it has the default's type."""
    value = getattr(component, name, default)
    if not isinstance(value, type(default)):
        raise BadInput(f"{component!r}: {name}: expected a {type(default).__name__}, got {value!r}")
    return value


def method(component: object, name: str) -> Callable[..., Any] | None:
    """An ability that is a method, such as ``misfit``, if there is one. Raises BadInput if it can't be called."""
    bound: Callable[..., Any] | None = getattr(component, name, None)
    if bound is None or callable(bound):
        return bound
    raise BadInput(f"{component!r}: {name}: expected a method, got {bound!r}")


def near_misses(component: object, kind: str) -> Iterator[tuple[str, str]]:
    """(attribute, ability) of public attributes that are nearly an ability, so that nobody would ever read them.

    kind: one of ABILITIES. Parameters, which are a dataclass's fields, may be called anything.
    """
    parameters = {f.name for f in fields(component)} if is_dataclass(component) else set()
    abilities = {_plain(name): name for name in ABILITIES[kind]}
    for name in dir(component):
        if not name.startswith("_") and name not in parameters and name not in abilities.values():
            for close in get_close_matches(_plain(name), abilities, n=1, cutoff=0.85):
                yield name, abilities[close]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
