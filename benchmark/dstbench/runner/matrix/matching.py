"""Partial matches of ``include``, ``exclude`` and ``overrides`` with what the axes of a matrix hold. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def matches(axes: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether a cell agrees with a partial match: by name, by number, or by a mapping of parameters."""
    return all(
        axis in axes and any(same(axes[axis], value) for value in listed(wanted))
        for axis, wanted in where.items()
    )


def same(spec: Any, wanted: Any) -> bool:
    """Whether one value on an axis agrees with one that is wanted: by name, number or some parameters."""
    if isinstance(wanted, str) and isinstance(spec, Mapping):
        return bool(spec["name"] == wanted)
    if isinstance(wanted, Mapping):
        given = {"name": spec} if isinstance(spec, str) else spec
        return isinstance(given, Mapping) and all(given.get(key) == value for key, value in wanted.items())
    return bool(spec == wanted)


def listed(value: Any) -> tuple[Any, ...]:
    """One value stands for a list of one. Lists become tuples: a frozen model holds nothing mutable."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def listed_or_none(value: Any) -> tuple[Any, ...] | None:
    """The same of what may be left out."""
    return None if value is None else listed(value)
