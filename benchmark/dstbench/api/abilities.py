"""Optional abilities: what a strategy may declare or do besides its protocol, whose docstring says what they mean.

The one place that looks attributes of strategies up by name. Three doors use it, ``Policy``, ``ValuePolicy`` and
the engine's ``as_structure``; what they return is typed, so nothing behind them has to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from dstbench.errors import BadInput

ABILITIES = {
    "score": ("needs", "full", "misfit", "accumulators", "rounds"),
    "share": ("needs", "uses_candidates", "accumulators"),
    "accumulator": ("needs", "dtype", "initial", "reset", "window", "entry", "signed", "pairs"),
    "values": (
        *("initial", "grown", "lr_scale"),
        *("needs", "remember", "pull", "restart", "for_optimizer", "caution"),
    ),
    "structure": (
        *("misfit", "accelerate", "whole_rows"),  # of a Layout, too
        "quota",  # of a Layout alone
        *("retiles", "merge", "allowed"),  # of a Structure alone
        *("events", "support"),  # which make it a Support
    ),
}

_ONLY = {  # abilities of one sort of structure alone
    "quota": "a Layout",
    **dict.fromkeys(("retiles", "merge", "allowed"), "a Structure"),
    **dict.fromkeys(("events", "support"), "a Support, which has events and support"),
}

_A = {kind: f"an {kind}" if kind[0] in "aeiou" else f"a {kind}" for kind in ABILITIES} | {"values": "values"}

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


def misplaced(component: object, kind: str) -> Iterator[tuple[str, str]]:
    """(attribute, what reads it) of public attributes that are an ability of something else than this component.

    kind: one of ABILITIES. Parameters, which are a dataclass's fields, may be called anything.
    """
    parameters = {f.name for f in fields(component)} if is_dataclass(component) else set()
    own = {name for name in ABILITIES[kind] if kind != "structure" or _reads(component, name)}
    for name in dir(component):
        if name in own or name in parameters:
            continue
        owners = [_A[other] for other, names in ABILITIES.items() if name in names and other != kind]
        if kind == "structure" and name in ABILITIES[kind]:
            owners = [_ONLY[name]]
        if owners:
            yield name, " and ".join([", ".join(owners[:-1]), owners[-1]] if len(owners) > 1 else owners)


def _reads(component: object, name: str) -> bool:
    """Whether the engine reads an ability of this sort of structure: of a Structure, a Layout or a Support."""
    whole = callable(getattr(component, "fill", None))
    supports = all(callable(getattr(component, part, None)) for part in ("events", "support"))
    sorts = {
        "a Layout": not whole and callable(getattr(component, "units", None)),
        "a Structure": whole,
        "a Support, which has events and support": supports,
    }
    return name not in _ONLY or sorts[_ONLY[name]]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
