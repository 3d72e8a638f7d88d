"""``-S axis=value``: settings from the command line, laid over a matrix file before it is validated."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import PARTS
from dstbench.recipe import named
from dstbench.results.printable import shortened, shown
from dstbench.runner.matrix.axes import AXES, COMPONENTS, CONTROLS, held
from dstbench.runner.matrix.matching import listed, same
from dstbench.runner.matrix.start import changed, written
from dstbench.runner.matrix.yaml import MOST_NODES, parse_yaml

_SECTIONS = ("training", "measure", "budget")
_TUNE = "tune"
_LISTS = ("controls", "dense_layers", "include", "exclude")

Document = dict[str, Any]
"""A matrix file as it was read."""


@dataclass(frozen=True)
class Setting:
    """One ``name=value`` from the command line; its name is ``head`` or ``head.parameter``."""

    text: str  # all of it
    name: str
    head: str  # an axis, a section or a list
    parameter: str
    written: str  # the value, in YAML

    @classmethod
    def of(cls, text: str) -> Setting:
        """Raises BadInput where nothing is set."""
        name, equals, written = text.partition("=")
        text = shortened(text, 100)  # for messages
        if not equals:
            raise BadInput(f"-S {text}: expected axis=value, such as grow=random,gradient")
        head, _, parameter = name.strip().partition(".")
        return cls(text, name.strip(), head, parameter, written)

    @property
    def replaces(self) -> bool:
        """Whether it puts something on an axis, rather than set a parameter or take the axis away."""
        return self.name in AXES and bool(self.written.strip())

    @property
    def value(self) -> Any:
        """What the name is set to."""
        return parse_yaml(self.written, f"-S {self.text}")

    @property
    def values(self) -> list[Any]:
        """The values that commas separate, as an axis or a list takes them."""
        values: list[Any] = parse_yaml(f"[{self.written}]", f"-S {self.text}")
        return values


def apply_settings(
    document: Mapping[str, Any], settings: Sequence[str], known: Sequence[str] = ()
) -> Document:
    """A copy of ``document`` with each ``name=value`` applied, left to right.

    - ``grow=random,gradient`` replaces an axis (values are YAML; commas separate them);
    - ``schedule.delta_t=5`` sets a parameter of every component on that axis;
    - ``training.epochs=3``, ``measure.throughput=false``, ``budget.trial_seconds=60``: those sections;
    - ``tune.lr=0.1,0.03``: the values that are tried of a setting; one that is set (``training.lr=0.1``) is no longer
      tuned, and after ``tune=`` none is;
    - ``start=timm:resnet18``, ``start.path=weights.safetensors``: what trials start from;
    - ``controls=`` (nothing after ``=``) empties a list or takes an axis away.

    What the file excludes or overrides for values that are no longer on an axis goes with them. Raises BadInput
    for an unknown name, suggesting ``known`` ones too.
    """
    result = copy.deepcopy(dict(document))
    parsed = [Setting.of(text) for text in settings]
    pieces = _of_recipes(document, parsed)
    for setting in parsed:
        if setting not in pieces:
            _apply(result, setting, known)
    axes = result.get("axes")
    if isinstance(axes, dict):
        chosen = any(setting.name == "recipe" for setting in parsed)
        spared = () if chosen else listed(result.get("controls", CONTROLS))
        _choose_methods(axes, parsed, _recipes_meant(document, parsed), spared)
        _forget(result, document)
        for setting in pieces:
            _override(result, setting, spared)
    return result


# which methods are meant: recipes, or the product of the strategy axes


def _recipes_meant(document: Mapping[str, Any], settings: Sequence[Setting]) -> bool:
    """Whether strategies are settings of recipes: recipes are named beside them, or are all that the file has."""
    axes = document.get("axes")
    crossed = isinstance(axes, dict) and any(axes.get(axis) for axis in PARTS)
    return not crossed or any(setting.replaces and setting.head == "recipe" for setting in settings)


def _of_recipes(document: Mapping[str, Any], settings: Sequence[Setting]) -> list[Setting]:
    """Those that set a parameter of one piece of every recipe: on a strategy axis that gets no components."""
    if not document.get("axes") or not _recipes_meant(document, settings):
        return []
    replaced = {setting.head for setting in settings if setting.replaces}
    return [s for s in settings if s.parameter and s.head in PARTS and s.head not in replaced]


def _choose_methods(
    axes: dict[str, Any], settings: Sequence[Setting], recipes_meant: bool, spared: Sequence[Any]
) -> None:
    """Leave on the axes the methods that are meant.

    Naming recipes leaves the file's product of strategies out: who types ``-S recipe=rigl`` wants RigL, not RigL
    beside 72 cells. Together with recipes a strategy changes that piece of each: ``-S recipe=rigl -S
    grow=momentum`` is RigL with another growth. So it does alone where the file's methods are recipes only, except
    in those that are its controls too; else it leaves the file's recipes out.
    """
    named_axes = {setting.name for setting in settings}
    changes = {axis: axes[axis] for axis in PARTS if axis in named_axes and axes.get(axis)}
    if axes.get("recipe") and recipes_meant:
        if changes or "recipe" in named_axes:
            for axis in PARTS:
                axes.pop(axis, None)
        if changes:
            axes["recipe"] = _varied(axes["recipe"], changes, spared)
    elif changes:
        axes.pop("recipe", None)


def _varied(recipes: Any, changes: Mapping[str, Sequence[Any]], spared: Sequence[Any]) -> list[Any]:
    """Every recipe with every choice of the changed pieces; the spared ones stay as they are."""
    number = len(listed(recipes)) * prod(map(len, changes.values()))
    if number > MOST_NODES:
        raise BadInput(f"-S {', '.join(changes)}: {number:,} recipes, more than {MOST_NODES:,}")
    choices = [dict(zip(changes, choice, strict=True)) for choice in product(*changes.values())]
    varied: list[Any] = []
    for recipe in listed(recipes):
        varied += [recipe] if recipe in spared else [{**named(recipe), **choice} for choice in choices]
    return varied


# what they override


def _override(document: Document, setting: Setting, spared: Sequence[Any]) -> None:
    """Set a parameter of one piece of every recipe on the axis but the spared ones."""
    recipes = [recipe for recipe in listed(document["axes"].get("recipe") or []) if recipe not in spared]
    if not recipes:
        raise _without_components(setting)
    rule = {"when": {"recipe": recipes}, "set": {setting.name: setting.value}}
    document["overrides"] = [*listed(document.get("overrides") or []), rule]


def _forget(document: Document, before: Mapping[str, Any]) -> None:
    """Drop what the file excludes or overrides for values that its axes held and hold no more. What they never
    held stays, to be refused: it is a typing error."""
    if isinstance(document.get("exclude"), list):
        matches = [_left(where, before, document) for where in document["exclude"]]
        document["exclude"] = [where for where in matches if where is not None]
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
        axis: [
            value for value in listed(wanted) if _holds(after, axis, value) or not _holds(before, axis, value)
        ]
        for axis, wanted in where.items()
    }
    return left if all(left.values()) else None


def _holds(document: Mapping[str, Any], axis: str, wanted: Any) -> bool:
    """Whether an axis of a document holds a value."""
    axes = document.get("axes")
    specs = held(axes if isinstance(axes, Mapping) else {}, document.get("controls", CONTROLS), axis)
    return any(same(spec, wanted) for spec in specs)


# one setting


def _apply(document: Document, setting: Setting, known: Sequence[str]) -> None:
    """Apply one setting as it stands."""
    if setting.head in _SECTIONS and setting.parameter:
        _section(document, setting.head, setting)[setting.parameter] = setting.value
        if setting.head == "training":
            _without(document, setting.parameter)
    elif setting.head == _TUNE:
        _tune(document, setting)
    elif setting.head in AXES and setting.parameter:
        _set_parameter(_section(document, "axes", setting), setting)
    elif setting.name in AXES:
        _section(document, "axes", setting)[setting.name] = setting.values or None
    elif setting.head == "start":
        document["start"] = _started(document.get("start"), setting)
    elif setting.name in _LISTS:
        document[setting.name] = setting.values
    else:
        inside = [option for option in known if option.rpartition(".")[2] == setting.name]
        names = [*AXES, *_LISTS, _TUNE, "start", *known]
        hint = f"; did you mean {inside[0]!r}?" if inside else nearest(setting.name, names)
        raise BadInput(f"-S {setting.text}: unknown name {shown(setting.name)}{hint}")


def _tune(document: Document, setting: Setting) -> None:
    """Replace the values that are tried of one setting, or tune nothing."""
    if setting.parameter and setting.written.strip():
        values, section = setting.values, _section(document, _TUNE, setting)
        if setting.parameter in ("seed", "seeds"):
            section.pop("seed", None)
            section.pop("seeds", None)
        section[setting.parameter] = values[0] if len(values) == 1 else values
    elif setting.parameter:
        _without(document, setting.parameter)
    elif setting.written.strip():
        raise BadInput(f"-S {setting.text}: expected a setting to tune, such as tune.lr=0.1,0.03")
    else:
        document.pop(_TUNE, None)


def _without(document: Document, name: str) -> None:
    """Tune a setting no longer; nothing, where it was the last one."""
    tuned = document.get(_TUNE)
    if isinstance(tuned, dict):
        tuned.pop(name, None)
        if not tuned.keys() - {"seed", "seeds", "per"}:
            document.pop(_TUNE)


def _set_parameter(axes: dict[str, Any], setting: Setting) -> None:
    """Give every component on an axis a parameter."""
    specs = axes.get(setting.head)
    if not specs or setting.head not in COMPONENTS:
        raise _without_components(setting)
    value = setting.value
    axes[setting.head] = [{**named(spec), setting.parameter: value} for spec in listed(specs)]


def _started(before: Any, setting: Setting) -> Any:
    """What trials start from, set as a whole or in one of its parameters."""
    if not setting.parameter:
        return setting.value
    start = written(before or {})
    if not isinstance(start, Mapping):
        raise BadInput(f"-S {setting.text}: start: expected a mapping in the file, got {shown(start)}")
    return changed(start, {setting.parameter: setting.value})


def _without_components(setting: Setting) -> BadInput:
    return BadInput(f"-S {setting.text}: the matrix has no components on the axis {setting.head!r}")


def _section(document: Document, name: str, setting: Setting) -> dict[str, Any]:
    section = document.setdefault(name, {})
    if not isinstance(section, dict):
        raise BadInput(f"-S {setting.text}: {name}: expected a mapping in the file, got {shown(section)}")
    return section
