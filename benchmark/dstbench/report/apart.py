"""What can't be compared is kept apart: results on other data, of other versions of model or data, by other rules.

Where all results of a model on a data set agree, nothing changes. Where they don't, the name of the model or of the
data set says what differs, ``digits(data=58492cd5)``: another name makes another block, which shares no rank, no
interval and no dense control with the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput
from dstbench.report.table_rows import rows_of
from dstbench.results.labels import spec_text
from dstbench.results.printable import counted, printable, shortened
from dstbench.results.record import Record, canonical
from dstbench.results.rules import EVALUATION

if TYPE_CHECKING:
    import pandas as pd

    from dstbench.registration.registry import Registry

Trials = list[dict[Any, Any]]  # rows of load_results
Protocol = Mapping[
    tuple[str, str], str
]  # (part of the trial, what differs) -> which; without what isn't known

MEASURED = (("dataset", "data"), ("dataset", "evaluation"), ("dataset", "flops"))
"""What is compared whatever the components' versions are."""
ALL = (("model", "version"), ("dataset", "version"), *MEASURED)


def apart(trials: Trials, by: Sequence[tuple[str, str]] = ALL) -> Trials:
    """The trials, those that others of their model and data set can't be compared with under names of their own.

    A trial that ended before it knew its data or versions stays with its siblings, where they agree.
    """
    known = [protocol(trial) for trial in trials]
    by_place: dict[tuple[Any, ...], dict[tuple[str, str], set[str]]] = {}
    for place in (_place, _sibling):
        for trial, said in zip(trials, known, strict=True):
            values = by_place.setdefault((place.__name__, *place(trial)), {})
            for name, value in said.items():
                values.setdefault(name, set()).add(value)
    named: Trials = []
    for trial, said in zip(trials, known, strict=True):
        there = by_place[("_place", *_place(trial))]
        siblings = by_place[("_sibling", *_sibling(trial))]
        differing = {
            name: said.get(name) or _only(siblings.get(name, set())) or "unknown"
            for name in by
            if len(there.get(name, ())) > 1
        }
        named.append(_renamed(trial, differing) if differing else trial)
    return named


def apart_frame(table: pd.DataFrame) -> pd.DataFrame:
    """``apart`` of a table from ``load_results``."""
    rows = rows_of(table)
    return renamed(table, rows, apart(rows))


def renamed(table: pd.DataFrame, rows: Trials, named: Trials) -> pd.DataFrame:
    """A table whose rows are ``rows`` with the names that they have apart."""
    import pandas as pd

    if all(one is other for one, other in zip(named, rows, strict=True)):
        return table
    columns = {name: [trial[name] for trial in named] for name in ("trial", "model", "dataset")}
    return table.assign(
        **{name: pd.Series(values, table.index, dtype=object) for name, values in columns.items()}
    )


def protocol(trial: Mapping[Any, Any]) -> Protocol:
    """What a trial was measured by, as far as it knows."""
    return _protocol(
        *(trial[name] for name in ("versions", "dataset_fingerprint", "evaluation", "convention"))
    )


@lru_cache(1024)  # results agree in most of it
def _protocol(components: Any, fingerprint: Any, evaluation: Any, convention: Any) -> Protocol:
    versions = dict(part.rsplit(" v", 1) for part in (components or "").split(", ") if " v" in part)
    said = {
        ("model", "version"): versions.get("model"),
        ("dataset", "version"): versions.get("dataset"),
        ("dataset", "data"): fingerprint,
        ("dataset", "evaluation"): evaluation,
        ("dataset", "flops"): convention,
    }
    return {name: _short(value) for name, value in said.items() if value not in (None, "")}


def _short(value: Any) -> str:
    """A fingerprint by its beginning; a number that pandas made a float as it was."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = printable(str(value))
    return text[:8] if len(text) == 64 else shortened(text, 40)


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _place(trial: Mapping[Any, Any]) -> tuple[Any, ...]:
    return trial["model"], trial["dataset"]


def _sibling(trial: Mapping[Any, Any]) -> tuple[Any, ...]:
    return (trial["trial"],)


def _renamed(trial: dict[Any, Any], differing: Mapping[tuple[str, str], str]) -> dict[Any, Any]:
    content = json.loads(trial["trial"])
    for (part, name), value in differing.items():
        content[part] = {**content[part], name: value}
    names = {part: spec_text(content[part]) for part in ("model", "dataset")}
    return {**trial, **names, "trial": canonical(content)}


def mixtures(trials: Trials) -> list[str]:
    """What had to be kept apart, for people: ``digits: data 58492cd5 and 12ab34cd``."""
    there: dict[tuple[str, str], set[str]] = {}
    places: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for trial in trials:
        for (part, name), value in protocol(trial).items():
            key = f"{trial['model']} on {trial['dataset']}", f"{part} {name}" if name == "version" else name
            there.setdefault(key, set()).add(value)
            places.setdefault(key, set()).add((part, name))
    return [
        f"{place}: {what} {' and '.join(sorted(values))}, shown apart"
        for (place, what), values in sorted(there.items())
        if len(values) > 1
    ]


def outdated(records: Iterable[Record], registry: Registry) -> dict[str, str]:
    """Records of other versions than the code that would rank them: key -> which, such as ``grow v1, now v2``.

    A component that isn't installed has no version to compare with.
    """
    now: dict[tuple[str, str], str | None] = {}
    ages_by_key: dict[str, str] = {}
    for record in records:
        parts = record["provenance"].get("components")
        older = []
        for kind, part in sorted(parts.items()) if isinstance(parts, dict) else ():
            if not isinstance(part, dict) or not isinstance(part.get("name"), str):
                continue
            component = kind, part["name"]
            if component not in now:
                now[component] = _installed(registry, *component)
            here = now[component]
            if here is not None and here != str(part.get("version")):
                older.append(f"{kind} v{part.get('version')}, now v{here}")
        evaluation = record["provenance"].get("evaluation", EVALUATION if record["status"] != "ok" else 1)
        if evaluation != EVALUATION:
            older.append(f"evaluation rules {evaluation}, now {EVALUATION}")
        if older:
            ages_by_key[record["key"]] = shortened(printable("; ".join(older)), 200)
    return ages_by_key


def ages(older: Mapping[str, str]) -> list[str]:
    """What ``outdated`` gave, for people: how many trials are older than the code, and why."""
    return [
        f"older than this code: {counted(n, 'trial')}: {which}"
        for which, n in sorted(Counter(older.values()).items())
    ]


def _installed(registry: Registry, kind: str, name: str) -> str | None:
    try:
        return registry.resolve(kind, name).version
    except BadInput:
        return None
