"""``-S axis=value``: settings from the command line, laid over a matrix file before it is validated."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import STRATEGIES
from dstbench.runner.matrix.matching import same, several
from dstbench.runner.matrix.yaml import parse_yaml

_AXES = ("model", "dataset", "density", "seed", *STRATEGIES, "recipe")
CONTROLS = ("dense", "static", "small-dense")
"""A matrix's controls where it names none."""

_SECTIONS = ("training", "measure", "budget")
_LISTS = ("controls", "dense_layers", "include", "exclude")


def apply_settings(
    document: Mapping[str, Any], settings: Sequence[str], known: Sequence[str] = ()
) -> dict[str, Any]:
    """A copy of ``document`` with each ``name=value`` applied, left to right.

    - ``grow=random,gradient`` replaces an axis (values are YAML; commas separate them);
    - ``schedule.delta_t=5`` sets a parameter of every component on that axis;
    - ``training.epochs=3``, ``measure.throughput=false``, ``budget.trial_seconds=60``: those sections;
    - ``controls=`` (nothing after ``=``) empties a list or takes an axis away.

    Naming recipes leaves the file's product of strategies out: who types ``-S recipe=rigl`` wants RigL, not RigL
    beside 72 cells. Together with recipes a strategy changes that piece of each: ``-S recipe=rigl -S
    grow=momentum`` is RigL with another growth, and ``-S schedule.delta_t=5`` its schedule with another ΔT. So it
    does alone where the file's methods are recipes only, except in those that are its controls too; else it
    leaves the file's recipes out. What the file excludes or overrides for values that are no longer on an axis
    goes with them. Raises BadInput for an unknown name, suggesting ``known`` ones too.
    """
    result = copy.deepcopy(dict(document))
    before = result.get("axes")
    crossed = isinstance(before, dict) and any(before.get(axis) for axis in STRATEGIES)
    replaced = {name.strip() for name, _, text in (each.partition("=") for each in settings) if text.strip()}
    of_recipes = bool(result.get("axes")) and ("recipe" in replaced or not crossed)
    pieces = [setting for setting in settings if of_recipes and _of_a_piece(setting, replaced)]
    named = {_apply(result, setting, known) for setting in settings if setting not in pieces}
    axes = result.get("axes")
    if isinstance(axes, dict):
        chosen, changed = "recipe" in named, [axis for axis in STRATEGIES if axis in named and axes.get(axis)]
        spared = () if chosen else result.get("controls", CONTROLS)
        if axes.get("recipe") and (chosen or not crossed):
            changes = {axis: axes[axis] for axis in changed}
            if chosen or changes:
                _drop(axes, STRATEGIES)
            if changes:
                axes["recipe"] = _varied(axes["recipe"], changes, spared)
        elif changed:
            _drop(axes, ("recipe",))
        _forget(result, document)
        for setting in pieces:
            _override(result, setting, spared)
    return result


def _of_a_piece(setting: str, replaced: Collection[str]) -> bool:
    """Whether a setting is a parameter on a strategy axis that no other setting gives components to."""
    name, equals, _ = setting.partition("=")
    head, dot, _ = name.strip().partition(".")
    return bool(equals and dot) and head in STRATEGIES and head not in replaced


def _override(document: dict[str, Any], setting: str, spared: Any) -> None:
    """Set a parameter of one piece of every recipe on the axis, but of the spared ones."""
    name, _, text = setting.partition("=")
    recipes = [
        recipe for recipe in _listed(document["axes"].get("recipe") or []) if recipe not in _listed(spared)
    ]
    if not recipes:
        axis = name.partition(".")[0].strip()
        raise BadInput(f"-S {setting}: the matrix has no components on the axis {axis!r}")
    rule = {"when": {"recipe": recipes}, "set": {name.strip(): parse_yaml(text, f"-S {setting}")}}
    document["overrides"] = [*_listed(document.get("overrides") or []), rule]


def _forget(document: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Drop what the file excludes or overrides for values that its axes held and hold no more. What they never
    held stays, to be refused: it is a typing error."""
    if isinstance(document.get("exclude"), list):
        left = [_left(where, before, document) for where in document["exclude"]]
        document["exclude"] = [where for where in left if where is not None]
    if isinstance(document.get("overrides"), list):
        rules = [rule for rule in document["overrides"] if isinstance(rule, Mapping) and "when" in rule]
        for rule in rules:
            where = _left(rule["when"], before, document)
            at = document["overrides"].index(rule)
            document["overrides"][at : at + 1] = [] if where is None else [{**rule, "when": where}]


def _left(where: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """What is left of a partial match; None if an axis no longer holds any value that it asks for."""
    if not isinstance(where, Mapping):
        return where
    left = {
        axis: [v for v in several(wanted) if _held(after, axis, v) or not _held(before, axis, v)]
        for axis, wanted in where.items()
    }
    return left if all(left.values()) else None


def _held(document: Mapping[str, Any], axis: str, wanted: Any) -> bool:
    """Whether an axis of a document, or among recipes its controls, holds a value."""
    axes = document.get("axes")
    specs = _listed(axes.get(axis)) if isinstance(axes, Mapping) and axes.get(axis) is not None else []
    if axis == "recipe":
        specs = specs + _listed(document.get("controls", CONTROLS))
    return any(same(spec, wanted) for spec in specs)


def _varied(recipes: Any, changes: Mapping[str, Sequence[Any]], spared: Any) -> list[Any]:
    """Every recipe with every choice of the changed pieces, but the spared ones as they are."""
    choices = [dict(zip(changes, choice, strict=True)) for choice in product(*changes.values())]
    varied: list[Any] = []
    for recipe in _listed(recipes):
        named = {"name": recipe} if isinstance(recipe, str) else recipe
        varied += [recipe] if recipe in _listed(spared) else [{**named, **choice} for choice in choices]
    return varied


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _apply(document: dict[str, Any], setting: str, known: Sequence[str]) -> str:
    """Apply one setting; return the axis that it replaced, or ""."""
    name, equals, text = setting.partition("=")
    name = name.strip()
    head, _, parameter = name.partition(".")
    if not equals:
        raise BadInput(f"-S {setting}: expected axis=value, such as grow=random,gradient")
    if head in _SECTIONS and parameter:
        _section(document, head, setting)[parameter] = parse_yaml(text, f"-S {setting}")
    elif head in _AXES and parameter:
        _set_parameter(_section(document, "axes", setting), head, parameter, setting, text)
    elif name in _AXES:
        values = _values(text, setting)
        _section(document, "axes", setting)[name] = values or None
        return name
    elif name in _LISTS:
        document[name] = _values(text, setting)
    else:
        inside = [option for option in known if option.rpartition(".")[2] == name]
        hint = f"; did you mean {inside[0]!r}?" if inside else nearest(name, [*_AXES, *_LISTS, *known])
        raise BadInput(f"-S {setting}: unknown name {name!r}{hint}")
    return ""


def _values(text: str, setting: str) -> list[Any]:
    parsed: list[Any] = parse_yaml(f"[{text}]", f"-S {setting}")
    return parsed


def _set_parameter(axes: dict[str, Any], axis: str, parameter: str, setting: str, text: str) -> None:
    """Give every component on an axis a parameter."""
    specs = axes.get(axis)
    if not specs or axis in ("density", "seed"):
        raise BadInput(f"-S {setting}: the matrix has no components on the axis {axis!r}")
    value = parse_yaml(text, f"-S {setting}")
    named = [{"name": spec} if isinstance(spec, str) else dict(spec) for spec in _listed(specs)]
    axes[axis] = [{**spec, parameter: value} for spec in named]


def _section(document: dict[str, Any], name: str, setting: str) -> dict[str, Any]:
    section = document.setdefault(name, {})
    if not isinstance(section, dict):
        raise BadInput(f"-S {setting}: {name}: expected a mapping in the file, got {section!r}")
    return section


def _drop(axes: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        axes.pop(name, None)
