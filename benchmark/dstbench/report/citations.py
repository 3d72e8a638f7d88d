"""BibTeX of methods and of dstbench itself: what a component was registered with, and its parts with it.

``register(..., bibtex=...)`` takes the entry itself, or ``"module:attribute"`` where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dstbench import __version__
from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import PARTS
from dstbench.recipe import Recipe, Spec, named
from dstbench.registration.loader import Component, imported
from dstbench.registration.registry import Registry
from dstbench.results.record import Record

OURSELVES = f"""@software{{dstbench,
  title = {{dstbench: The Benchmark for Dynamic Sparse Training}},
  author = {{{{The dstbench contributors}}}},
  version = {{{__version__}}},
}}"""
KINDS = ("recipe", *PARTS, "share")


def bibliography(names: Iterable[str], registry: Registry, more: Iterable[str] = ()) -> str:
    """The BibTeX entries of recipes, or of components of any kind, and of dstbench, each once; ``more``: entries.

    A recipe comes with the papers of its parts. Raises BadInput for an unknown name.
    """
    entries = dict.fromkeys([*(entry for name in names for entry in _entries(name, registry)), *more])
    return "\n\n".join([*entries, OURSELVES]) + "\n"


def of_records(records: Iterable[Record], registry: Registry) -> list[str]:
    """The entries of all strategies that records name, and of the recipes that their labels are."""
    components: dict[tuple[str, str], None] = {}
    for record in records:
        label = record["label"].partition("(")[0]
        recipe: dict[str, Any] = record["trial"]["recipe"]
        parts = [part for kind in PARTS for part in _names(kind, recipe.get(kind))]
        components |= dict.fromkeys([("recipe", label), *parts])
    entries: dict[str, None] = {}
    for kind, name in sorted(components):
        try:
            component = registry.resolve(kind, name)
        except BadInput:  # a label that is no recipe's name, or a plugin that isn't here
            continue
        entries |= dict.fromkeys(_of(component, registry))
    return [*entries]


def _names(kind: str, spec: Spec | None) -> Iterator[tuple[str, str]]:
    """A part of a recipe, and the share inside it, as (kind, name)."""
    if spec is None:
        return
    part = named(spec)
    yield kind, str(part["name"])
    if "share" in part:
        yield "share", str(named(part["share"])["name"])


def _entries(name: str, registry: Registry) -> Iterator[str]:
    bare = name.partition("(")[0]
    kinds = [kind for kind in KINDS if bare in registry[kind]]
    if not kinds:
        known = {known_name for kind in KINDS for known_name in registry[kind]}
        raise BadInput(f"cite: no recipe or strategy {name!r}{nearest(name, known)}")
    for kind in kinds:  # a name may be of several, each with papers of its own
        yield from _of(registry[kind][bare], registry)
    if "recipe" in kinds:
        recipe: Recipe = registry.build("recipe", bare)
        for kind in () if recipe.dense or recipe.narrow else PARTS:
            for part, part_name in _names(kind, getattr(recipe, kind)):
                yield from _of(registry.resolve(part, part_name), registry)


def _of(component: Component, registry: Registry) -> Iterator[str]:
    """A component's own entry; an alias, which is another name of the same target, has that one's."""
    same = [other for other in registry[component.kind].values() if other.target == component.target]
    for entry in (component, *same):
        if isinstance(text := entry.metadata.get("bibtex"), str):
            yield (text if text.lstrip().startswith("@") else str(imported(text, entry.title))).strip()
            return
