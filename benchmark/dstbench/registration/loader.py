"""Finds plugins and loads each in isolation: one that is broken is disabled with its reason. Torch-free.

Not pluggy's ``load_setuptools_entrypoints``: one bad import there ends the whole load, a second plugin of
the same name is dropped in silence, and nothing says which plugin a result came from.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import pluggy

from dstbench import hookspecs
from dstbench.errors import BadInput, nearest
from dstbench.registration.parameters import Parameter, Signature, is_function, read_signature

GROUP = "dstbench"
BUILTIN = "dstbench"  # the distribution that owns its short names
OBSERVERS = ("trial_started", "topology_updated", "trial_finished")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*:?")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class PluginError(BadInput):
    """A plugin is broken: which one, of which distribution, and why."""


@dataclass(frozen=True, eq=False)
class Component:
    """Something registered under a name. ``metadata`` is what its plugin said about it beyond the summary."""

    kind: str
    name: str  # as registered; ends in a colon for a family
    target: Any  # an object, or "module:attribute"
    summary: str
    version: str
    distribution: str
    distribution_version: str
    plugin: str  # the name of the entry point
    metadata: Mapping[str, Any] = field(default_factory=dict)
    bound: Mapping[str, Any] = field(default_factory=dict)  # what an alias sets, as a spec would

    @property
    def full_name(self) -> str:
        """The name that no other distribution can take."""
        return f"{self.distribution}/{self.name}"

    @property
    def title(self) -> str:
        """How messages call the component, such as ``grow 'gradient'``."""
        return f"{self.kind} {self.name!r}"

    @property
    def is_family(self) -> bool:
        """Whether what follows the name's colon is the parameter ``variant``."""
        return self.name.endswith(":")

    def load(self) -> Any:
        """Import the target. Raises BadInput where its module or attribute can't be had."""
        if not isinstance(self.target, str):
            return self.target
        return imported(self.target, f"{self.kind} {self.full_name!r}")

    def parameters(self) -> tuple[Parameter, ...]:
        """Import the target and return its parameters; what an alias binds is their default."""
        signature, bound = self.signature()
        return tuple(
            replace(p, default=bound[p.name], required=False) if p.name in bound else p
            for p in signature.parameters
        )

    def signature(self) -> tuple[Signature, dict[str, Any]]:
        """Import the target and return what a spec may say of it, and what an alias says, checked."""
        signature = read_signature(self.kind, self.load())
        return signature, signature.check(self.bound, self.title)

    def source(self) -> tuple[str | None, int | None]:
        """Import the target and return the file and line where it is defined; None for what has no source."""
        target = inspect.unwrap(getattr(self.load(), "func", self.load()))
        if not (inspect.isclass(target) or is_function(target)):
            target = type(target)
        try:
            return inspect.getsourcefile(target), inspect.getsourcelines(target)[1]
        except (TypeError, OSError):
            return None, None


def imported(target: str, whose: str) -> Any:
    """What ``"module:attribute"`` names. Raises BadInput, with ``whose`` it is, where it can't be had."""
    module, _, attribute = target.partition(":")
    try:
        value: Any = import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:
        raise BadInput(f"{whose}: can't import {target!r}: {_one_line(error)}") from error
    return value


@dataclass(frozen=True)
class Disabled:
    """A plugin that takes no part, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        """One line for messages."""
        return f"{self.plugin} ({self.distribution} {self.version}): {self.reason}"


@dataclass(frozen=True)
class Observer:
    """A plugin's implementation of an observer hook."""

    plugin: str
    hook: str
    function: Callable[..., object]
    arguments: tuple[str, ...]  # those of the hook's that it asks for


@dataclass(frozen=True)
class Loaded:
    """The components, observers and disabled plugins that the entry points gave."""

    components: tuple[Component, ...]
    observers: tuple[Observer, ...]
    disabled: tuple[Disabled, ...]
    plugins: tuple[tuple[str, str], ...]  # (plugin, distribution), switched-off ones included


def canonical(distribution: str) -> str:
    """Return a distribution's normalised name (PEP 503): the same however its metadata spells it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def load_plugins(switched_off: Mapping[str, str], *, strict: bool = False) -> Loaded:
    """Load every entry point of the group.

    ``switched_off`` maps the name of an entry point or a distribution to the reason why it is off. With
    ``strict`` a broken plugin raises PluginError instead of being disabled.
    """
    components: list[Component] = []
    observers: list[Observer] = []
    disabled: list[Disabled] = []
    points = _unique(entry_points(group=GROUP))
    for point in points:
        distribution, version = _owner(point)
        off = switched_off.get(point.name) or switched_off.get(distribution)
        try:
            if not off:
                with redirect_stdout(sys.stderr):  # a plugin that prints must not end up inside --json
                    registered, watching = _load_one(point, distribution, version)
                _refuse_twice(registered, components)
                components += registered
                observers += watching
        except (Exception, SystemExit) as error:
            off = str(error) if isinstance(error, PluginError) else _one_line(error)
            if strict:
                raise PluginError(f"plugin {point.name} ({distribution} {version}): {off}") from error
        if off:
            disabled.append(Disabled(point.name, distribution, version, off))
    return Loaded(
        tuple(components), tuple(observers), tuple(disabled), tuple((p.name, _owner(p)[0]) for p in points)
    )


def _unique(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """One entry point per distribution and name, the built-ins first, then by name: no scan order in results.

    A distribution can be listed twice on ``sys.path`` (an editable install beside a wheel's metadata).
    """
    first: dict[tuple[str, str], EntryPoint] = {}
    for point in points:
        first.setdefault((_owner(point)[0], point.name), point)
    return [first[key] for key in sorted(first, key=lambda key: (key[0] != BUILTIN, key))]


def _owner(point: EntryPoint) -> tuple[str, str]:
    """The normalised name and the version of the distribution that declares an entry point."""
    if point.dist is None:
        return "unknown", "unknown"
    return canonical(point.dist.name), point.dist.version


def _load_one(point: EntryPoint, distribution: str, version: str) -> tuple[list[Component], list[Observer]]:
    """Import one plugin and run its registrations; anything wrong raises, so nothing of it is kept."""
    plugin = point.load()
    components: list[Component] = []
    observers: list[Observer] = []
    for hook, implementation in _implementations(plugin, point.name):
        if hook in OBSERVERS:
            arguments = tuple(implementation.argnames)
            observers.append(Observer(point.name, hook, implementation.function, arguments))
            continue
        kind = hook.removeprefix("register_")
        register = _register(kind, components, distribution, version, point.name)
        implementation.function(register)
    return components, observers


def _implementations(plugin: Any, name: str) -> list[tuple[str, pluggy.HookImpl]]:
    """Return (hook, implementation) of one plugin, checked against the hookspecs by a manager of its own."""
    specs = {n for n in vars(hookspecs) if n.startswith("register_")} | set(OBSERVERS)
    _refuse_unmarked(plugin, specs)
    manager = pluggy.PluginManager("dstbench")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    implementations = [
        (caller.name, implementation)
        for caller in manager.get_hookcallers(plugin) or []
        for implementation in caller.get_hookimpls()
    ]
    for hook, implementation in implementations:
        if hook not in specs and not implementation.optionalhook:
            raise PluginError(f"implements {hook!r}, which is no hook of dstbench{nearest(hook, specs)}")
        if implementation.hookwrapper or implementation.wrapper:
            raise PluginError(f"{hook} is a hook wrapper: these hooks are called one by one, nothing to wrap")
        if hook.startswith("register_") and not implementation.argnames:
            raise PluginError(f"{hook} takes no argument 'register', so it registers nothing")
    if not implementations:
        raise PluginError("has no function marked @dstbench.hookimpl: nothing would be registered")
    order = [f"register_{kind}" for kind in hookspecs.KINDS] + list(OBSERVERS)
    known = [(hook, implementation) for hook, implementation in implementations if hook in specs]
    return sorted(known, key=lambda pair: order.index(pair[0]))


def _refuse_unmarked(plugin: Any, specs: Iterable[str]) -> None:
    """A function that has a hook's name and no mark would be ignored in silence."""
    for hook in sorted(specs):
        function = getattr(plugin, hook, None)
        here = getattr(function, "__module__", None) == getattr(plugin, "__name__", None)
        if here and not hasattr(function, "dstbench_impl"):
            raise PluginError(f"{hook} isn't marked @dstbench.hookimpl")


def _register(
    kind: str, into: list[Component], distribution: str, distribution_version: str, plugin: str
) -> hookspecs.Register:
    """Return the callable that a ``register_*`` hook is given."""

    def register(
        name: str,
        target: Any,
        *,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        summary: str = "",
        version: str = "1",
        **metadata: Any,
    ) -> None:
        what = f"{kind} {name!r}"
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise PluginError(
                f"{what}: a name is letters, digits, '_', '.', '+' and '-', a family ends in ':'"
            )
        if isinstance(target, str) and not _TARGET.fullmatch(target):
            raise PluginError(f"{what}: expected a target such as 'package.module:Class', got {target!r}")
        if target is None:
            raise PluginError(f"{what}: the target is None")
        if not (isinstance(version, str) and version and isinstance(summary, str)):
            raise PluginError(f"{what}: version and summary are strings, got {version!r} and {summary!r}")
        if not isinstance(parameters, Mapping) or "name" in parameters:
            raise PluginError(f"{what}: expected parameters such as {{'alpha': 0.5}}, got {parameters!r}")
        if any(c.kind == kind and c.name == name for c in into):
            raise PluginError(f"registers {what} twice")
        owner = (distribution, distribution_version, plugin)
        kept = MappingProxyType(metadata), MappingProxyType(dict(parameters))
        into.append(Component(kind, name, target, summary, version, *owner, *kept))

    return register


def _refuse_twice(new: Iterable[Component], earlier: Iterable[Component]) -> None:
    """Two plugins of one distribution share its full names."""
    taken = {(c.kind, c.full_name): c.plugin for c in earlier}
    for component in new:
        if other := taken.get((component.kind, component.full_name)):
            raise PluginError(
                f"registers {component.kind} {component.name!r}, which plugin {other!r} of the same "
                f"distribution registers too"
            )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
