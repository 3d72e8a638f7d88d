"""One component as a spec describes it. Torch-free until the component is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dstbench.errors import BadInput
from dstbench.hookspecs import KINDS, POLICIES
from dstbench.registration.loader import BUILTIN, Component
from dstbench.registration.parameters import INSIDE, VALUE_PIECES, Signature, bind
from dstbench.registration.roles import ROLES

Resolve = Callable[[str, Any], "Choice"]
"""(kind, spec) -> what the spec describes: ``Registry.choose``."""


@dataclass(frozen=True)
class Choice:
    """A component with its parameters checked, and the pieces of what it makes that a spec changes."""

    component: Component
    parameters: Mapping[str, Any]  # converted to their declared types, bound ones included
    changes: Mapping[
        str, Any
    ]  # piece -> its value, or its Choice where it is a component; bound ones included
    bound: Mapping[str, Any]  # what the name alone says: all that an alias does, a family's variant
    _signature: Signature = field(repr=False)
    _resolve: Resolve = field(repr=False, compare=False)

    @classmethod
    def of(cls, component: Component, given: Mapping[str, Any], resolve: Resolve) -> Choice:
        """The component as the keys of a spec beside its name describe it. Raises BadInput, naming the component."""
        signature, bound = component.signature()
        values = bound | signature.check(given, component.title)
        signature.require(values, component.title)
        if component.is_family:
            bound["variant"] = values.get("variant", "")
        changes = _pieces(signature, values, resolve)
        parameters = {name: value for name, value in values.items() if name not in changes}
        return cls(component, parameters, changes, bound, signature, resolve)

    def make(self) -> Any:
        """Make a Policy, Share, Structure or Layout, Schedule, Recipe, a model factory with its parameters bound,
        a DatasetFactory or an executor, anew each time. Raises BadInput for values that it refuses together.
        """
        return self._in_role(self._raw(), self.changes)

    @cached_property
    def normal(self) -> dict[str, Any]:
        """The spec in its one canonical, JSON-ready form; equal trials have equal forms.

        Built-ins go by their short name, others by ``distribution/name``; what is at its default is left out,
        and so is a change to what the component has anyway. Raises BadInput where ``make`` does.
        """
        component, raw = self.component, self._raw()
        alias = _pieces(self._signature, self.bound, self._resolve)
        plain, changed = self._in_role(raw, alias), self._in_role(raw, self.changes)
        pieces = {
            key: _json(piece)
            for key, piece in sorted(self.changes.items())
            if piece != alias.get(key) and self._differ(plain, changed, key)
        }
        name = self._named(component.name if component.distribution == BUILTIN else component.full_name)
        return {"name": name, **self._signature.changed(self.parameters, self.bound), **pieces}

    @property
    def versions(self) -> dict[str, Any]:
        """The component's full name and version and its distribution's, with those of components inside it."""
        component = self.component
        own = {
            "name": self._named(component.full_name),
            "version": component.version,
            "distribution": component.distribution,
            "distribution_version": component.distribution_version,
        }
        inside = {piece: self.changes[piece].versions for piece in INSIDE if piece in self.normal}
        read = self._accumulators()
        return own | inside | ({"accumulators": read} if read else {})

    def _accumulators(self) -> dict[str, Any]:
        """Versions of the accumulators that a policy reads, by the name that it reads them by; those at version 1
        are left out, as they were when the first records were made."""
        if self.component.kind not in POLICIES:
            return {}
        read = {
            name: self._resolve("accumulator", spec).versions
            for name, spec in self.make().accumulators.items()
            if isinstance(spec, str | Mapping)
        }
        return {name: versions for name, versions in sorted(read.items()) if versions["version"] != "1"}

    def _named(self, name: str) -> str:
        """A name of the component, of a family with the variant."""
        return f"{name}{self.bound['variant']}" if self.component.is_family else name

    def _raw(self) -> Any:
        """What the plugin's class or factory gives, before anyone looks at it."""
        try:
            return bind(self.component.kind, self.component.load(), self.parameters)
        except (TypeError, ValueError) as error:
            raise BadInput(f"{self.component.title}: {error}") from error

    def _in_role(self, raw: Any, changes: Mapping[str, Any]) -> Any:
        return ROLES[self.component.kind](raw, changes, self.component.title)

    def _differ(self, plain: Any, changed: Any, key: str) -> bool:
        """Whether a piece is another than without the change."""
        before, after = getattr(plain, key), getattr(changed, key)
        if isinstance(before, str | Mapping):  # a recipe's, which may be written in any form
            before = self._resolve(key, before).normal
        return bool(before != after)


def _pieces(signature: Signature, values: Mapping[str, Any], resolve: Resolve) -> dict[str, Any]:
    """Those of checked values that change pieces of what is made, each component among them resolved."""
    pieces = [piece.name for piece in signature.pieces if piece.name in values]
    kinds = {**{kind: kind for kind in KINDS}, **dict.fromkeys(VALUE_PIECES, "values")}
    return {name: resolve(kinds[name], values[name]) if name in kinds else values[name] for name in pieces}


def _json(piece: Any) -> Any:
    if isinstance(piece, Choice):
        return piece.normal
    return list(piece) if isinstance(piece, tuple) else piece
