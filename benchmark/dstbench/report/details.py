"""What every row of the page was made of: its trials and where they ran, its curves over epochs, its layers.

Curves are means over the seeds that finished: exploration from the records, loss, validation metric and density
from ``curve.jsonl`` beside them, where that is there. A curve is written as its lowest and highest value and two
letters a point, 4,095 steps between these; where a page would become too large, with fewer points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import fsum, prod
from pathlib import Path
from typing import Any

import orjson

from dstbench.report.notes import provenance_of
from dstbench.report.page_data import encoded
from dstbench.report.section import Material
from dstbench.report.verified import labels_of
from dstbench.results.curve_file import CURVE
from dstbench.results.files import read_plain
from dstbench.results.measure_table import MEASURES
from dstbench.results.record import Record
from dstbench.results.table import LoadedResults

Curve = dict[float, dict[str, float]]  # epoch -> figure -> value

FIGURES = {
    "loss": "training loss",
    "top1_validation": "validation top-1 %",
    "score_validation": "validation metric",
    "density": "density",
    "r_s": "R_s",
    "never_dropped": "never dropped",
}
"""Of a training, over epochs. The last two are in records, the first three beside them."""
_OWN = ("started", "finished")  # that no two trials share
KEY = 12  # of a trial's key: enough to find it
ROOM = 600_000
"""Bytes of all curves, or all layers, of a page: beyond, curves get fewer points, and at last are left out."""
POINTS = (40, 24, 12, 6)
LARGEST_CURVE = 2**22  # bytes
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STEPS = len(LETTERS) ** 2 - 1


def details(material: Material, groups: Sequence[str | None], known: Mapping[str, Curve]) -> dict[str, Any]:
    """What the page shows of a row, for rows by their group (None: a published one). known: ``curves_of`` them."""
    trials = [sorted(material.members[group], key=_seed) if group else [] for group in groups]
    curves, points = _within_room([_curve(records, known) for records in trials])
    return {
        "trials": _trials(trials),
        "curves": curves,
        "points": points,
        "figures": FIGURES,
        "layers": _layers(trials),
        **_verified(material, trials),
    }


def _verified(material: Material, rows: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """What verifying came to of each row, figure by figure; nothing where that wasn't asked."""
    checks = material.loaded.checks
    if checks is None:
        return {}
    said = [json.dumps(labels_of(records, checks), sort_keys=True) for records in rows]
    words = {text: place for place, text in enumerate(dict.fromkeys(said))}
    return {"checks": {"said": [json.loads(text) for text in words], "at": [words[text] for text in said]}}


def _seed(record: Record) -> int:
    seed: int = record["trial"]["seed"]
    return seed


def letters(values: Iterable[float | None], low: float, high: float) -> str:
    """Two letters a value between ``low`` and ``high``, ``__`` for what is missing."""
    scale = (STEPS - 1) / ((high - low) or 1.0)
    places = [STEPS if value is None else round((value - low) * scale) for value in values]
    return "".join(LETTERS[place // len(LETTERS)] + LETTERS[place % len(LETTERS)] for place in places)


def _trials(rows: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """A column each of what trials have of their own; what they share, once."""
    flat = [record for records in rows for record in records]
    return {
        "count": encoded([len(records) for records in rows]),
        "key": "".join(record["key"][:KEY].ljust(KEY) for record in flat),
        "seed": encoded([record["trial"]["seed"] for record in flat]),
        "status": encoded([record["status"] for record in flat]),
        "score": encoded(  # of a row with one trial it is the row's own
            [
                MEASURES["score"].value(record["measures"]) if len(of) > 1 else None
                for of in rows
                for record in of
            ],
            7,
        ),
        **_times(flat),
        "made": encoded(_made(flat)),
    }


def _made(records: Sequence[Record]) -> list[str]:
    """What each record says of where it comes from, as JSON; worked out once for those that say the same."""
    known: dict[str, str] = {}
    texts = []
    for record in records:
        said = repr({name: value for name, value in record["provenance"].items() if name not in _OWN})
        if said not in known:
            known[said] = json.dumps(provenance_of(record), ensure_ascii=False)
        texts.append(known[said])
    return texts


def _times(records: Sequence[Record]) -> dict[str, Any]:
    """When trials began, in seconds since the first did, and how many seconds later they ended."""
    began, ended = (
        [_seconds(record["provenance"].get(name)) for record in records] for name in ("started", "finished")
    )
    first = min((at for at in began if at is not None), default=0)
    return {
        "first": first,
        "began": encoded([None if at is None else at - first for at in began], 12),
        "took": encoded([_between(start, end) for start, end in zip(began, ended, strict=True)], 12),
    }


def _between(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else end - start


def _seconds(text: Any) -> int | None:
    """Since 1970; None where it is no time."""
    try:
        at = datetime.fromisoformat(str(text))
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class _Means:
    """The means over seeds of a row's curves."""

    epochs: tuple[float, ...]
    figures: Mapping[str, tuple[float | None, ...]]

    def thinned(self, points: int) -> _Means:
        """At most so many points, the first and the last among them."""
        last = len(self.epochs) - 1
        if last < points:
            return self
        kept = [round(place * last / (points - 1)) for place in range(points)]
        return _Means(
            tuple(self.epochs[place] for place in kept),
            {name: tuple(values[place] for place in kept) for name, values in self.figures.items()},
        )

    def encoded(self) -> list[Any]:
        """``[epochs, {figure: [low, high, letters]}]``, a figure that never changes as its value."""
        figures = {}
        for name, values in self.figures.items():
            known = [value for value in values if value is not None]
            low, high = (float(f"{end(known):.4g}") for end in (min, max))
            low, high = min(low, *known), max(high, *known)
            same = len(known) == len(values) and high - low <= 1e-9 * abs(high)
            figures[name] = _short(high) if same else [_short(low), _short(high), letters(values, low, high)]
        return [list(self.epochs), figures]


def _short(value: float) -> float:
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded == int(rounded) else rounded


def curves_of(loaded: LoadedResults) -> dict[str, Curve]:
    """The curves of the trials that finished, by key."""
    finished = (record for record in loaded.records if record["status"] == "ok")
    return {record["key"]: _of(record, loaded.paths.get(record["key"])) for record in finished}


def _curve(records: Sequence[Record], known: Mapping[str, Curve]) -> _Means | None:
    """The means over the seeds that finished; None where nothing is known."""
    curves = [curve for record in records if (curve := known.get(record["key"]))]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    figures: dict[str, tuple[float | None, ...]] = {}
    for name in FIGURES:
        columns = [
            [at[name] if (at := curve.get(epoch)) and name in at else None for epoch in epochs]
            for curve in curves
        ]
        values = tuple(map(_mean, zip(*columns, strict=True)))
        if any(value is not None for value in values):
            figures[name] = values
    return _Means(tuple(epochs), figures) if figures else None


def _of(record: Record, file: Path | None) -> Curve:
    """One trial's curves."""
    curve = _beside(file.parent / CURVE) if file else {}
    exploration = record["measures"].get("exploration") or {}
    for name in ("r_s", "never_dropped"):
        for epoch, value in zip(exploration.get("epoch", ()), exploration.get(name, ()), strict=False):
            if value is not None:
                curve.setdefault(epoch, {})[name] = value
    return curve


def _beside(file: Path) -> Curve:
    """What ``curve.jsonl`` says, as far as it can be read: it is no record, and a killed trial leaves half a line."""
    curve: Curve = {}
    try:
        lines = read_plain(file, LARGEST_CURVE).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return curve
    for point in _points(lines):
        if isinstance(point, dict) and "epoch" in point and _is_number(point["epoch"]):
            curve[point["epoch"]] = {name: point[name] for name in FIGURES if _is_number(point.get(name))}
    return curve


def _points(lines: Sequence[str]) -> Iterator[Any]:
    """The lines' JSON values, without those that have none; all at once where there is nothing to leave out."""
    if all(line.startswith('{"epoch": ') and line.endswith("}") for line in lines):
        with suppress(ValueError, RecursionError):
            points = orjson.loads(f"[{','.join(lines)}]")
            if len(points) == len(lines):
                yield from points
                return
    for line in lines:
        with suppress(ValueError, RecursionError):
            yield json.loads(line)


def _is_number(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and -1e30 < value < 1e30


def _mean(values: Sequence[float | None]) -> float | None:
    if len(values) == 1:
        return values[0]
    if None not in values:
        return fsum(values) / len(values)  # type: ignore[arg-type]
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None


def _within_room(curves: Sequence[_Means | None]) -> tuple[dict[str, Any], int]:
    """Curves by row with as many points as there is room for, and how many that are; 0: none are shown."""
    for points in POINTS:
        thinned = [curve and curve.thinned(points) for curve in curves]
        size = sum(len(curve.figures) * (20 + 2 * len(curve.epochs)) for curve in thinned if curve)
        if size <= ROOM:
            break
    else:
        return {"epochs": [], "rows": {}}, 0
    epochs: dict[str, int] = {}
    rows = {}
    for place, curve in enumerate(thinned):
        if curve:
            times, figures = curve.encoded()
            rows[place] = [epochs.setdefault(json.dumps(times), len(epochs)), figures]
    return {"epochs": [json.loads(times) for times in epochs], "rows": rows}, points


def _layers(rows: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """The layers of each network once, and each row's densities in their order: means over seeds."""
    networks: dict[str, int] = {}
    by_row: dict[int, tuple[int, list[float]]] = {}
    for place, records in enumerate(rows):
        seeds = [layers for record in records if (layers := record["measures"].get("layers"))]
        if not seeds:
            continue
        shape = json.dumps([[layer["name"], "×".join(map(str, layer["shape"]))] for layer in seeds[0]])
        same = [layers for layers in seeds if len(layers) == len(seeds[0])]
        densities = [
            fsum(layers[i]["active"] / prod(layers[i]["shape"]) for layers in same) / len(same)
            for i in range(len(seeds[0]))
        ]
        by_row[place] = (networks.setdefault(shape, len(networks)), [float(f"{d:.4g}") for d in densities])
    if 7 * sum(len(densities) for _, densities in by_row.values()) > ROOM:
        return {"networks": [], "rows": {}, "left_out": True}
    return {"left_out": False, "networks": [json.loads(shape) for shape in networks], "rows": by_row}
