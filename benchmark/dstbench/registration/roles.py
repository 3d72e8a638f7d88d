"""What each kind's components must be once they are made. Torch-free until one is.

A role takes what a plugin gave, checks it, and changes the pieces that a spec names: a policy's share, a recipe's
fields. A piece that is a component itself comes as its Choice. Raises BadInput, which starts with ``what``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput
from dstbench.hookspecs import PARTS, POLICIES
from dstbench.registration.parameters import required_positionals

if TYPE_CHECKING:
    from dstbench.api import Policy, Recipe, ValuePolicy

Role = Callable[[Any, Mapping[str, Any], str], Any]


def _policy(made: Any, changes: Mapping[str, Any], what: str) -> Policy:
    """A policy of a score or a share, told apart by how they are called."""
    from dstbench.api import Policy, Random

    share = {"share": changes["share"].make()} if "share" in changes else {}
    arguments = required_positionals(made) if callable(made) else ()
    if isinstance(made, Policy):
        return replace(made, **share)
    if len(arguments) == 2:
        return Policy(made, **share)
    if len(arguments) != 3:
        expected = "a Score (layer, rng), a Share (layers, candidates, n) or a Policy"
        raise BadInput(f"{what}: expected {expected}, got {made!r}")
    if share:
        raise BadInput(f"{what} is a share itself: it can't be combined with another")
    return Policy(Random(), made)


def _recipe(made: Any, changes: Mapping[str, Any], what: str) -> Recipe:
    from dstbench.api import Recipe

    if not isinstance(made, Recipe):
        raise BadInput(f"{what}: expected a Recipe, got {made!r}")
    pieces = [kind for kind in PARTS if kind in changes]
    changed = made.but(**{**changes, **{kind: changes[kind].normal for kind in pieces}})
    if pieces and (changed.dense or changed.narrow):
        raise BadInput(f"{what}: it has no masks, so there is no {pieces[0]} to change")
    return changed


def _values(made: Any, changes: Mapping[str, Any], what: str) -> ValuePolicy:
    from dstbench.api import ValuePolicy
    from dstbench.api.abilities import ABILITIES

    made_of = {piece: choice.make() for piece, choice in changes.items()}
    for piece, part in made_of.items():
        if part.grown is not None or part.restart is not None:
            raise BadInput(f"{what}: {piece}: expected values without pieces of their own, got {part!r}")
    parts = {piece: part.values for piece, part in made_of.items() if part.values != made}
    if isinstance(made, ValuePolicy):
        return replace(made, **parts)
    told = [name for name in ABILITIES["values"] if name != "needs"]
    if not any(callable(getattr(made, name, None)) for name in told):
        raise BadInput(f"{what}: expected Values, which tell any of {', '.join(told)}, got {made!r}")
    return ValuePolicy(made, **parts)


def _structure(made: Any, changes: Mapping[str, Any], what: str) -> Any:
    from dstbench.api import Layout, Structure, Support

    if not isinstance(made, (Layout, Structure, Support)):
        raise BadInput(f"{what}: expected a Layout (units), a Structure or a Support, got {made!r}")
    return made


def _accumulator(made: Any, changes: Mapping[str, Any], what: str) -> Any:
    from dstbench.api import Accumulator

    if not isinstance(made, Accumulator):
        raise BadInput(f"{what}: expected an Accumulator, which has fold(total, layer, clock), got {made!r}")
    return made


def _called_with(*arguments: str) -> Role:
    """The role of what the engine calls with these arguments."""

    def role(made: Any, changes: Mapping[str, Any], what: str) -> Any:
        if len(required_positionals(made)) != len(arguments):
            raise BadInput(f"{what}: expected to be called with ({', '.join(arguments)}), got {made!r}")
        return made

    return role


def _called(made: Any, changes: Mapping[str, Any], what: str) -> Any:
    if not callable(made):
        raise BadInput(f"{what}: expected something to call, got {made!r}")
    return made


ROLES: dict[str, Role] = {
    **dict.fromkeys(POLICIES, _policy),
    "share": _called_with("layers", "candidates", "n"),
    "accumulator": _accumulator,
    "structure": _structure,
    "schedule": _called_with("clock", "density"),
    "values": _values,
    "recipe": _recipe,
    **dict.fromkeys(("model", "dataset", "executor"), _called),
}
"""Kind -> role."""
