"""Recipes changed piece by piece: ``{name: rigl, grow: momentum}`` is RigL with another growth. Torch-free
until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import STRATEGIES
from dstbench.registration.parameters import check_parameters, read_parameters

if TYPE_CHECKING:
    from dstbench.api import Recipe
    from dstbench.registration.registry import Registry


def split_changes(target: Any, given: Mapping[str, Any], what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe spec's parameters of the factory, and the fields of ``api.Recipe`` to change in what it makes.

    Raises BadInput for a key that is neither, with the nearest, and for a value of the wrong type.
    """
    from dstbench.api import Recipe

    parameters, open_ended = read_parameters("recipe", target)
    known = {parameter.name for parameter in parameters}
    fields = {parameter.name for parameter in read_parameters("recipe", Recipe)[0]} - known
    changes = {key: value for key, value in given.items() if key in fields}
    rest = {key: value for key, value in given.items() if key not in fields}
    for key in rest:
        if key not in known and not open_ended:
            raise BadInput(f"{what}: unknown parameter {key!r}{nearest(str(key), known | fields)}")
    return rest, check_parameters("recipe", Recipe, changes, what)


def varied(registry: Registry, made: Recipe, changes: Mapping[str, Any], what: str) -> Recipe:
    """The recipe with its pieces changed. Raises BadInput for a piece of a recipe that has no masks."""
    changed = made.but(**{key: _normal(registry, key, value) for key, value in changes.items()})
    pieces = [key for key in STRATEGIES if key in changes]
    if pieces and (changed.dense or changed.narrow):
        raise BadInput(f"{what}: it has no masks, so there is no {pieces[0]} to change")
    return changed


def real_changes(registry: Registry, made: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes in canonical, JSON-ready form, without those to what the recipe has anyway."""
    normal = {key: _normal(registry, key, changes[key]) for key in sorted(changes)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in normal.items()
        if value != _normal(registry, key, getattr(made, key))
    }


def _normal(registry: Registry, key: str, value: Any) -> Any:
    return registry.normalise(key, value) if key in STRATEGIES else value
