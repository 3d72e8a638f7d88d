"""A recipe's names turned into the objects that the engine calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from dstbench.api import Keep, Policy, Recipe, Schedule, Signal, Spec, Support, Target, ValuePolicy, Values
from dstbench.api.accumulators import SEEN, Folding, of_all
from dstbench.core.engine.structures import EngineStructure, Unstructured, as_structure
from dstbench.errors import BadInput
from dstbench.hookspecs import POLICIES
from dstbench.recipe import named, parts_of, recipe_of

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry


_FIELDS = ("grad", "active_grad", "momentum", "hessian")  # what fields of signals are called


@dataclass(frozen=True)
class Method:
    """One component of each kind, ready to run."""

    init: Policy
    structure: EngineStructure
    prune: Policy
    grow: Policy
    schedule: Schedule
    dense_layers: tuple[str, ...] = ()
    dense: bool = False  # no masks
    support: Support | None = None  # what the structure removes for good
    values: ValuePolicy = field(default_factory=ValuePolicy)  # what weights hold, and how fast they learn
    accumulators: Mapping[str, Folding] = field(
        default_factory=dict
    )  # what prune and grow read of past steps
    calibrated: Mapping[str, Folding] = field(default_factory=dict)  # what the init reads of its batches

    @cached_property
    def needs(self) -> Signal:
        """The signals that topology updates read; what the init reads is read once."""
        return self.prune.needs | self.grow.needs | self.values.needs

    @property
    def starts_full(self) -> bool:
        """Whether training starts as dense as the structure allows, whatever the schedule says."""
        return self.init.full

    @property
    def retiles(self) -> bool:
        """Whether masks may change at an update that adds nothing."""
        return self.structure.retiles

    @cached_property
    def reach(self) -> int:
        """The longest of the accumulators' windows, in steps."""
        return max((folding.window for folding in self.accumulators.values()), default=0)

    def folds(self, updates_left: bool, ahead: int | None) -> frozenset[str]:
        """The accumulators that a step is folded into. ahead: steps until the next topology update, 0 at its own;
        None where that is beyond ``reach``."""
        if not updates_left:
            return frozenset()
        near = -1 if ahead is None else ahead
        return frozenset(n for n, f in self.accumulators.items() if not f.window or 0 <= near < f.window)

    def signals(
        self, due: Target | None, density: float, updates_left: bool, folds: frozenset[str] = frozenset()
    ) -> Signal:
        """What a step must collect: for the update due at it, which starts from ``density``, for later ones, and for
        the accumulators that it is folded into. An update that only prunes spares the dense gradient, and after the
        last nobody reads the momentum."""
        always = self.needs & Signal.MOMENTUM if updates_left else Signal.NONE
        for name in folds:
            always |= self.accumulators[name].needs
        if due is None:
            return always
        grows = due.final > min(due.keep, density) or self.retiles or self.support is not None
        grows |= due.backward is not None or self.prune.percolates
        growing = self.grow.needs | self.values.needs
        return (always | self.prune.needs | (growing if grows else Signal.NONE)) & ~Signal.MEMORY


def _registry(registry: Registry | None) -> Registry:
    if registry is not None:
        if not hasattr(registry, "build"):
            raise BadInput(f"registry: expected a Registry, got {type(registry).__name__}")
        return registry
    from dstbench.registration.registry import registry as default

    return default()


def build_policy(kind: str, spec: Spec | Policy, registry: Registry | None = None) -> Policy:
    """A policy from a name, a mapping, or itself."""
    if isinstance(spec, Policy):
        return spec
    policy: Policy = _registry(registry).build(kind, spec)
    return policy


def as_recipe(recipe: str | Recipe | Mapping[str, Any], registry: Registry | None = None) -> Recipe:
    """A recipe from its name, from ``{"name": ..., parameter: value}``, or from kinds to specs.

    Raises BadInput for an unknown name or key.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Mapping) or not all(isinstance(key, str) for key in recipe):
        raise BadInput(f"recipe: expected a name, a mapping or a Recipe, got {recipe!r}")
    if isinstance(recipe, str) or "name" in recipe:
        built: Recipe = _registry(registry).build("recipe", recipe)
        return built
    return recipe_of(recipe)


def described(recipe: str | Recipe | Mapping[str, Any]) -> str:
    """A recipe as it was given, in a few words: its name and parameters, or its parts."""
    if isinstance(recipe, str):
        return recipe
    if isinstance(recipe, Mapping) and "name" in recipe:
        changed = ", ".join(f"{key}={value!r}" for key, value in recipe.items() if key != "name")
        return f"{recipe['name']}({changed})" if changed else str(recipe["name"])
    parts = recipe_of(recipe) if isinstance(recipe, Mapping) else recipe
    pieces = parts_of(parts).values()
    return (
        "dense"
        if parts.dense
        else " · ".join(
            str(named(piece)["name"]) if isinstance(piece, str | Mapping) else repr(piece) for piece in pieces
        )
    )


def build_method(recipe: str | Recipe | Mapping[str, Any], registry: Registry | None = None) -> Method:
    """The components of a recipe. Raises BadInput for unknown names and parameters."""
    parts = as_recipe(recipe, registry)
    if parts.narrow:
        raise BadInput("recipe: it trains a narrower model; ask for 'dense' with that model")
    source = _registry(registry)
    structure = as_structure(_build(source, "structure", parts.structure))
    init, prune, grow = (build_policy(kind, getattr(parts, kind), source) for kind in POLICIES)
    _check_needs(init, prune, grow)
    method = Method(
        init=init,
        structure=structure,
        prune=prune,
        grow=grow,
        schedule=_build(source, "schedule", parts.schedule),
        dense_layers=tuple(parts.dense_layers),
        dense=parts.dense,
        support=structure.component if isinstance(structure.component, Support) else None,
        values=build_values(parts.values, source),
        accumulators=foldings_of({"prune": prune, "grow": grow}, source),
        calibrated=foldings_of({"init": init}, source),
    )
    _check_memory(method)
    _check_pairs(method)
    if prune.percolates and not isinstance(structure.structure, Unstructured):
        raise BadInput(
            f"prune: {prune.score!r} percolates, link by link, and structure {structure.component!r} moves more "
            "than single weights: use 'unstructured', or no percolation"
        )
    return method


def build_values(spec: Spec | Values | ValuePolicy, registry: Registry | None = None) -> ValuePolicy:
    """Values from a name, a mapping, an object with ``initial``, ``grown`` and ``lr_scale``, or themselves."""
    if isinstance(spec, ValuePolicy):
        return spec
    if not isinstance(spec, str | Mapping):
        return ValuePolicy(spec)
    if spec in ("keep", {"name": "keep"}):  # what it always was, whatever is registered
        return ValuePolicy(Keep())
    values: ValuePolicy = _registry(registry).build("values", spec)
    return values


def _check_memory(method: Method) -> None:
    """Refuse a score that reads what nobody remembers. Raises BadInput, naming both."""
    reading = [p for p in (method.prune, method.grow) if Signal.MEMORY in p.needs]
    if reading and not method.values.remembers:
        raise BadInput(
            f"{reading[0].score!r} reads what the values remember of each position, and {method.values.values!r} "
            "remembers nothing: name values that do, such as those of its recipe"
        )


def _check_pairs(method: Method) -> None:
    """Refuse pairs of inputs where nobody collects them."""
    if pairing := next((name for name, folding in method.accumulators.items() if folding.pairs), None):
        reading = method.prune if pairing in method.prune.accumulators else method.grow
        raise BadInput(f"{reading!r} reads pairs of inputs as {pairing!r}, which an init alone has")


def _check_needs(init: Policy, prune: Policy, grow: Policy) -> None:
    """Refuse what isn't there when a policy is asked."""
    if early := init.needs & (Signal.MOMENTUM | Signal.MEMORY):
        raise BadInput(f"init: {init} needs {early}, and before the first step there is none")
    for kind, policy in {"init": init, "prune": prune, "grow": grow}.items():
        if policy.needs & (Signal.INPUTS | Signal.OUTPUT_GRADIENTS):
            raise BadInput(f"{kind}: {policy} needs {policy.needs}: an accumulator has them, a score none")
        if Signal.HESSIAN in policy.needs and (kind != "init" or not policy.rounds.count):
            raise BadInput(f"{kind}: {policy} needs {Signal.HESSIAN}, which only an init with rounds has")


def foldings_of(policies: Mapping[str, Policy], source: Registry) -> dict[str, Folding]:
    """Every accumulator that the policies read, by the name that they read it by."""
    made: dict[str, tuple[str, Any]] = {}
    for kind, policy in policies.items():
        for name, spec in policy.accumulators.items():
            accumulator = _build(source, "accumulator", spec)
            if name in _FIELDS or name == SEEN:
                raise BadInput(f"{kind}: {policy} calls an accumulator {name!r}, which is a signal's name")
            other, same = made.setdefault(name, (kind, accumulator))
            if same != accumulator:
                raise BadInput(
                    f"{other} and {kind} call two accumulators {name!r}: {same!r} and {accumulator!r}"
                )
    foldings = {}
    for name, (kind, accumulator) in made.items():
        fits = partial(policies[kind].reads, name) if kind == "init" else of_all
        foldings[name] = Folding.of(accumulator, name, fits)
    return foldings


def _build(registry: Registry, kind: str, spec: Any) -> Any:
    """A component from a name or mapping; an object that already is one passes through."""
    return registry.build(kind, spec) if isinstance(spec, str | Mapping) else spec


def check_condensable(method: Method) -> None:
    """Refuse a method that needs what isn't there, or needs it so often that nothing is saved."""
    if method.init.waits:
        raise BadInput(
            f"storage: 'condensed' needs masks from the start, and init {method.init!r} reads gradients"
        )
    if Signal.MOMENTUM in method.needs:
        raise BadInput(
            "storage: 'condensed' saves nothing where every step needs the dense gradient: momentum growth"
        )
    for name, folding in method.accumulators.items():
        if Signal.GRAD in folding.needs and not folding.window:
            raise BadInput(
                f"storage: 'condensed' saves nothing where every step needs the dense gradient: accumulator {name!r}"
            )


def check_observable(method: Method, storage: str) -> None:
    """Refuse accumulators that look at inputs or gradients of layers which a storage replaces or reshapes."""
    for name, folding in method.accumulators.items():
        if folding.entry is not None and storage != "masked":
            raise BadInput(
                f"storage: {storage!r} changes layers whose {folding.needs.name} accumulator {name!r} looks at; "
                "use 'masked'"
            )
