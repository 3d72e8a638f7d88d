"""The parameters of a component: read from its signature, checked against its type hints. Torch-free.

A class has the parameters of its constructor (the fields of a dataclass); a function has its keyword-only
parameters and those with a default. What the engine passes when it calls a function is not a parameter.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import POLICIES

RESERVED = ("name", "share")
"""Keys of a spec that are not parameters."""

VALUE_PIECES = ("grown", "restart")
"""Pieces of values that another values may be: whose grown weights, whose restarts of the learning rate."""

INSIDE = ("share", *VALUE_PIECES)
"""Pieces of strategies that are components with a version of their own."""

_PASSED = {"model": ("num_classes", "input_shape")}
"""What the runner passes by keyword, however the factory declares it."""

_FACTORIES = ("recipe", "structure")
"""Kinds whose functions are only ever called to make the component, so all their arguments are parameters."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component."""

    name: str
    type: str  # the hint as a reader would write it
    default: Any  # None where required
    required: bool
    hint: Any = field(default=Any, repr=False)


@dataclass(frozen=True)
class Signature:
    """What a spec may say of a component: parameters, and changes to pieces of what is made with them."""

    parameters: tuple[Parameter, ...] = ()
    pieces: tuple[Parameter, ...] = ()  # a policy's share, a recipe's fields
    open_ended: bool = False  # whether it takes any other parameters (``**kwargs``)

    def check(self, values: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Return the values converted to their declared types. ``what`` names the component in errors.

        Integers pass for floats and lists for tuples; nothing else is coerced. Raises BadInput naming the
        parameter, what was expected and what came; for an unknown one, the nearest names.
        """
        known = {parameter.name: parameter for parameter in (*self.parameters, *self.pieces)}
        names = known.keys() - set(RESERVED)
        for name in (name for name in values if name not in known):
            if name in RESERVED:
                raise BadInput(f"{what}: only {', '.join(POLICIES)} take a {name}")
            if not self.open_ended:
                hint = nearest(str(name), names) if names else "; it takes none"
                raise BadInput(f"{what}: unknown parameter {name!r}{hint}")
        return {name: _checked(known[name], v, what) if name in known else v for name, v in values.items()}

    def require(self, values: Mapping[str, Any], what: str) -> None:
        """Raise BadInput for a parameter that has neither a value nor a default."""
        for parameter in self.parameters:
            if parameter.required and parameter.name not in values:
                raise BadInput(f"{what}: parameter {parameter.name!r} ({parameter.type}) is required")

    def changed(self, values: Mapping[str, Any], bound: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked values of parameters in JSON form, in the order of declaration, without those that are
        as ``bound`` or else as by default.
        """
        defaults = {p.name: p.default for p in self.parameters if not p.required} | dict(bound)
        hints = {p.name: p.hint for p in self.parameters}
        return {
            name: _jsonable(hints[name], values[name]) if name in hints else values[name]
            for name in (*hints, *sorted(values.keys() - hints))
            if name in values and not (name in defaults and _same(values[name], defaults[name]))
        }


def required_positionals(target: Any) -> tuple[str, ...]:
    """Names of the arguments that a callable can't be called without, keyword-only ones aside."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    empty = inspect.Parameter.empty
    return tuple(p.name for p in signature.parameters.values() if p.kind in positional and p.default is empty)


def is_function(target: Any) -> bool:
    """Whether a target is a function, which takes parameters, rather than an object that already has them."""
    return inspect.isroutine(target) or isinstance(target, functools.partial)


def read_signature(kind: str, target: Any) -> Signature:
    """Return the signature of an imported target. Raises BadInput where a parameter has a name that specs reserve."""
    own = _read(kind, target) if inspect.isclass(target) or is_function(target) else Signature()
    known = {parameter.name for parameter in own.parameters}
    pieces = _PIECES[kind]() if kind in _PIECES else ()
    return replace(own, pieces=tuple(piece for piece in pieces if piece.name not in known))


@functools.cache
def _read(kind: str, target: Any) -> Signature:
    try:
        arguments = inspect.signature(target).parameters
    except ValueError:  # built in C
        return Signature()
    passed = set(_PASSED.get(kind, ()))
    if is_function(target) and kind not in (*_PASSED, *_FACTORIES):
        passed |= set(required_positionals(target))
    if is_function(target) and kind == "executor":  # called with keywords: all that it needs is passed
        passed |= {name for name, argument in arguments.items() if argument.default is argument.empty} | {
            "workers"
        }
    hints, defaults = _hints(target), _factory_defaults(target)
    parameters = tuple(
        _parameter(argument, hints.get(name, Any), defaults)
        for name, argument in arguments.items()
        if name not in passed and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    )
    if clash := [p.name for p in parameters if p.name in RESERVED]:
        raise BadInput(f"{kind} target {target!r}: a parameter may not be called {clash[0]!r}")
    return Signature(parameters, open_ended=any(a.kind is a.VAR_KEYWORD for a in arguments.values()))


def _share() -> tuple[Parameter, ...]:
    return (Parameter("share", "any", default=None, required=False),)


def _others() -> tuple[Parameter, ...]:
    return tuple(Parameter(name, "any", default=None, required=False) for name in VALUE_PIECES)


def _recipe_fields() -> tuple[Parameter, ...]:
    from dstbench.api import Recipe

    return _read("recipe", Recipe).parameters


_PIECES: dict[str, Callable[[], tuple[Parameter, ...]]] = {
    **dict.fromkeys(POLICIES, _share),
    "values": _others,
    "recipe": _recipe_fields,
}


def bind(kind: str, target: Any, values: Mapping[str, Any]) -> Any:
    """Make the component: construct a class, call a factory, or give a function its parameters."""
    if kind in _PASSED:
        return functools.partial(target, **values)
    if inspect.isclass(target):
        return target(**values)
    if not is_function(target):
        return target
    if kind in _FACTORIES or not required_positionals(target):
        return target(**values)
    # update_wrapper carries attributes such as ``needs`` over to the partial
    return functools.update_wrapper(functools.partial(target, **values), target) if values else target


def _parameter(argument: inspect.Parameter, hint: Any, defaults: Mapping[str, Any]) -> Parameter:
    required = argument.default is inspect.Parameter.empty
    default = None if required else defaults.get(argument.name, argument.default)
    return Parameter(argument.name, _spelled(hint), default, required, hint)


def _hints(target: Any) -> dict[str, Any]:
    """Type hints by name. Hints that name what isn't importable at run time count as Any."""
    function = target.func if isinstance(target, functools.partial) else target
    if inspect.isclass(function) and not dataclasses.is_dataclass(function):
        function = function.__init__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _factory_defaults(target: Any) -> dict[str, Any]:
    """Defaults that a dataclass makes anew each time; its signature hides them."""
    if not dataclasses.is_dataclass(target):
        return {}
    missing = dataclasses.MISSING
    return {
        f.name: f.default_factory() for f in dataclasses.fields(target) if f.default_factory is not missing
    }


def _spelled(hint: Any) -> str:
    if hint is Any:
        return "any"
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def _adapter(hint: Any) -> Any:
    """Return the pydantic validator of a hint, or None where pydantic knows no schema for it."""
    return _new_adapter(hint) if isinstance(hint, Hashable) else None


@functools.cache
def _new_adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return None


def _checked(parameter: Parameter, value: Any, what: str) -> Any:
    """Validate by way of JSON: strict about types there still means a list for a tuple."""
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError, to_json

    adapter = _adapter(parameter.hint)
    if adapter is None or parameter.hint is Any:
        return value
    try:
        return adapter.validate_json(to_json(value, inf_nan_mode="constants"), strict=True)
    except PydanticSerializationError:
        detail = "not a value that a matrix file can hold"
    except ValidationError as error:
        detail = "; ".join(dict.fromkeys(e["msg"] for e in error.errors(include_url=False)))
    raise BadInput(
        f"{what}: parameter {parameter.name!r} expected {parameter.type}, "
        f"got {value!r} ({type(value).__name__}): {detail}"
    )


def _jsonable(hint: Any, value: Any) -> Any:
    adapter = _adapter(hint)
    return value if adapter is None else adapter.dump_python(value, mode="json")


def _same(value: Any, default: Any) -> bool:
    """Equality that tells True from 1."""
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)
