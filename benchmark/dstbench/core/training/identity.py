"""Which method a recipe is, in plain values that stay equal when the code of its components grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dstbench.api import Recipe, Spec
from dstbench.recipe import parts_of
from dstbench.registration.parameters import INSIDE

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry


def identify(recipe: Recipe, registry: Registry | None = None) -> dict[str, Any]:
    """A recipe's pieces: named ones by canonical spec and version, objects by class and changed fields.

    Parameters at their default are left out: a component may gain one and stay what it was. A release that changes
    no component's own version changes nothing either.
    """
    if registry is None:
        from dstbench.registration.registry import registry as default

        registry = default()
    flags = {"dense_layers": list(recipe.dense_layers), "dense": recipe.dense or recipe.narrow}
    pieces = {kind: _piece(kind, spec, registry) for kind, spec in parts_of(recipe).items()}
    return pieces | {name: value for name, value in flags.items() if value}


def _piece(kind: str, spec: Spec, registry: Registry) -> Any:
    if not isinstance(spec, str | Mapping):
        return plain(spec)
    return {"spec": plain(registry.normalise(kind, spec)), "version": _own(registry.versions(kind, spec))}


def _own(versions: Mapping[str, Any]) -> dict[str, Any]:
    """A component's full name and version, and those inside it, without their distributions' versions."""
    own = {"name": versions["name"], "version": versions["version"]}
    return own | {piece: _own(versions[piece]) for piece in INSIDE if piece in versions}


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts that tell one component from another.

    An object becomes its class's name and what was changed of its fields: those of a dataclass that aren't at their
    default, all attributes of another.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, Tensor):
        return {"tensor": str(value.dtype), "values": value.tolist()}
    if isinstance(value, partial):
        return {"function": plain(value.func), "args": plain(value.args), **plain(value.keywords)}
    if isinstance(value, type) or hasattr(value, "__qualname__"):  # a class or function
        return value.__qualname__
    return {"class": type(value).__qualname__, **_attributes(value)}


def _attributes(value: Any) -> dict[str, Any]:
    if not is_dataclass(value):
        held = getattr(value, "__dict__", None)
        return {"repr": repr(value)} if held is None else plain(held)
    now = {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(value)
    }
    return {name: held for name, held in now.items() if held != plain(defaults[name])}
