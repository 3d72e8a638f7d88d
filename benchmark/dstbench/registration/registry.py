"""Names to components: what plugins registered, found by name, checked and built. Torch-free until built."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import KINDS
from dstbench.registration.choice import Choice
from dstbench.registration.loader import (
    BUILTIN,
    Component,
    Disabled,
    Observer,
    PluginError,
    canonical,
    load_plugins,
)
from dstbench.registration.parameters import Parameter

if TYPE_CHECKING:
    from dstbench.api import Spec

__all__ = ["Choice", "Component", "Disabled", "Parameter", "PluginError", "Registry", "registry"]

_log = logging.getLogger("dstbench.plugins")


class Observers:
    """Calls every observer of an event; one that raises is reported once and never stops a trial."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self._reported: set[Observer] = set()

    def trial_started(self, trial: Mapping[str, Any]) -> None:
        """See ``hookspecs.trial_started``."""
        self._call("trial_started", trial=trial)

    def topology_updated(self, trial: Mapping[str, Any], step: int, report: Mapping[str, Any]) -> None:
        """See ``hookspecs.topology_updated``."""
        self._call("topology_updated", trial=trial, step=step, report=report)

    def trial_finished(self, trial: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """See ``hookspecs.trial_finished``."""
        self._call("trial_finished", trial=trial, result=result)

    def _call(self, hook: str, **arguments: Any) -> None:
        for observer in self._observers:
            if observer.hook != hook:
                continue
            try:
                observer.function(*[arguments[name] for name in observer.arguments])
            except Exception:
                if observer not in self._reported:
                    self._reported.add(observer)
                    _log.warning("observer %s of plugin %s failed", hook, observer.plugin, exc_info=True)


class Registry(Mapping[str, Mapping[str, Component]]):
    """Kind -> name -> component.

    A name here is the shortest that means its component: a third party's name that a built-in or another
    distribution has as well is listed as ``distribution/name``.
    """

    def __init__(
        self,
        components: Iterable[Component],
        observers: Iterable[Observer] = (),
        disabled: Iterable[Disabled] = (),
    ) -> None:
        every = tuple(components)
        self._components = {kind: [c for c in every if c.kind == kind] for kind in KINDS}
        self._names = {
            kind: MappingProxyType({self._shortest(c): c for c in members})
            for kind, members in self._components.items()
        }
        self.disabled = tuple(disabled)
        self.hook = Observers(observers)

    def __getitem__(self, kind: str) -> Mapping[str, Component]:
        """Return the components of one kind."""
        return self._names[kind]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the kinds."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of kinds."""
        return len(self._names)

    def resolve(self, kind: str, name: str) -> Component:
        """Return the component that a short name, ``distribution/name`` or ``family:variant`` means.

        Raises BadInput for an unknown kind or name (with the nearest, and every disabled plugin, which may
        be where it should have come from) and for a short name that two distributions share.
        """
        return self._find(kind, name)[0]

    def choose(self, kind: str, spec: Spec) -> Choice:
        """Return what a spec describes, its names resolved and its values checked.

        A policy's spec may hold a ``share``, a recipe's any field of ``api.Recipe``, which change that piece of
        it. Raises BadInput naming the component, what was expected and what came.
        """
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping) or "name" not in spec:
            raise BadInput(f"{kind}: expected a name or a mapping with the key 'name', got {spec!r}")
        component, variant = self._find(kind, spec["name"])
        given = {key: value for key, value in spec.items() if key != "name"}
        if variant and given.setdefault("variant", variant) != variant:
            raise BadInput(f"{kind} {spec['name']!r}: variant is given twice, also {given['variant']!r}")
        return Choice.of(component, given, self.choose)

    def normalise(self, kind: str, spec: Spec) -> dict[str, Any]:
        """Return ``Choice.normal`` of a spec: its one canonical, JSON-ready form."""
        return self.choose(kind, spec).normal

    def build(self, kind: str, spec: Spec) -> Any:
        """Make what a spec describes: see ``Choice.make``."""
        return self.choose(kind, spec).make()

    def versions(self, kind: str, spec: Spec) -> dict[str, Any]:
        """Return ``Choice.versions`` of a spec: whose code it is, and which."""
        return self.choose(kind, spec).versions

    def _shortest(self, component: Component) -> str:
        same = [c for c in self._components[component.kind] if c.name == component.name]
        alone = component.distribution == BUILTIN or len(same) == 1
        return component.name if alone else component.full_name

    def _find(self, kind: str, name: str) -> tuple[Component, str]:
        """Return the component and, of a family, the variant."""
        if kind not in KINDS:
            raise BadInput(f"unknown kind {kind!r}{nearest(str(kind), KINDS)}")
        if not isinstance(name, str):
            raise BadInput(f"{kind}: expected a name, got {name!r} ({type(name).__name__})")
        head, colon, variant = name.partition(":")
        distribution, _, short = head.rpartition("/")
        components = [c for c in self._components[kind] if c.name == short + colon]
        if distribution:
            components = [c for c in components if c.distribution == canonical(distribution)]
        else:
            components = [c for c in components if c.distribution == BUILTIN] or components
        if not components:
            raise BadInput(self._unknown(kind, name, qualified=bool(distribution)))
        if len(components) > 1:
            names = " or ".join(repr(c.full_name) for c in components)
            raise BadInput(f"{kind} {name!r} is ambiguous: say {names}")
        return components[0], variant

    def _unknown(self, kind: str, name: str, *, qualified: bool) -> str:
        names = [c.full_name for c in self._components[kind]] if qualified else self._names[kind]
        elsewhere = [k for k in KINDS if k != kind and name in self._names[k]]
        family = name[: name.find(":") + 1]  # the variant would only blur what is near
        message = f"unknown {kind} {name!r}{nearest(family or name, names)}"
        if elsewhere:
            message += f"; {name!r} is registered as {' and '.join(elsewhere)}"
        if self.disabled:
            message += "; disabled plugins: " + "; ".join(map(str, self.disabled))
        return message


def registry(no_plugins: Iterable[str] = frozenset(), strict: bool = False) -> Registry:
    """Return what all installed plugins register; the same object for the same arguments.

    ``no_plugins`` switches plugins off by the name of their entry point or distribution, as does the
    environment variable ``DSTBENCH_DISABLE_PLUGINS=a,b``. A broken plugin is disabled with its reason, or,
    with ``strict`` or ``DSTBENCH_STRICT_PLUGINS=1``, raises PluginError.
    """
    wanted_off = [name.strip() for name in os.environ.get("DSTBENCH_DISABLE_PLUGINS", "").split(",")]
    strict = strict or os.environ.get("DSTBENCH_STRICT_PLUGINS", "") not in ("", "0")
    return _registry(frozenset(no_plugins), frozenset(filter(None, wanted_off)), strict)


@functools.cache
def _registry(by_argument: frozenset[str], by_environment: frozenset[str], strict: bool) -> Registry:
    off = dict.fromkeys(by_environment, "switched off by DSTBENCH_DISABLE_PLUGINS")
    off |= dict.fromkeys(by_argument, "switched off on request")
    loaded = load_plugins({**off, **{canonical(name): reason for name, reason in off.items()}}, strict=strict)
    known = {name for pair in loaded.plugins for name in pair}
    for name in sorted(by_argument):
        if not {name, canonical(name)} & known:
            raise BadInput(f"no plugin or distribution {name!r} to switch off{nearest(name, known)}")
    return Registry(loaded.components, loaded.observers, loaded.disabled)
