"""Results folders into one table: a row a trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, fault
from dstbench.hookspecs import STRATEGIES
from dstbench.results.curve_file import CURVE, curve_points
from dstbench.results.labels import spec_text, value_text
from dstbench.results.measure_table import MEASURES, WORDS
from dstbench.results.record import (
    Record,
    Rejected,
    canonical,
    is_remembering,
    read_record,
    read_trial,
    record_files,
    search,
)
from dstbench.results.spread import spread
from dstbench.results.tuning import EDGE, TUNED, Tuning, is_tuning, tuning_of
from dstbench.results.verdicts import REFUSED, Verdict, checks, read_verdicts, tiers

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LoadedResults",
    "Rejected",
    "load_curves",
    "load_results",
    "read",
    "read_briefly",
    "read_record",
    "roots",
]

Paths = str | Path | Iterable[str | Path]
Row = dict[str, Any]
TUNING_COLUMNS = ("tuned", "tuning_spread", "tried")
"""What was chosen on validation data, how far its metric was apart over the candidates, and what each gave."""
ReadOne = Callable[[Path], tuple[Record | Rejected, Row]]
BRIEF = ("key", "checksum", "status")


@dataclass(frozen=True)
class LoadedResults:
    """What results folders hold: records by key in order of key, and the files left out."""

    records: tuple[Record, ...]
    rejected: tuple[Rejected, ...]
    paths: Mapping[str, Path] = field(default_factory=dict)  # key -> its file
    tiers: Mapping[str, str] = field(
        default_factory=dict
    )  # key -> how far it was verified, where that was asked
    rows: Mapping[str, Row] = field(
        default_factory=dict
    )  # key -> what ``frame`` shows of it, as far as known
    tuning: tuple[Record, ...] = ()  # of trials that chose settings for others: never on a board
    checks: Mapping[str, Mapping[str, str]] | None = (
        None  # key -> how its figures were made again, where that was asked
    )

    @property
    def faults(self) -> tuple[str, ...]:
        """Of what is left out, that which is so by an error of ours."""
        return tuple(str(one) for one in self.rejected if one.fault)


def read(paths: Paths, verdicts: str | Path | None = None) -> LoadedResults:
    """Read every record under one or more folders. Raises BadInput where a folder doesn't exist.

    verdicts: the folder of what verifying them came to (``results verify``): records that it refused are left out,
    the others have a tier. The same record in two folders counts once. Two different records of one trial: the first
    folder's counts, the other is rejected by name, as is what lies in another trial's folder, and what makes no row.
    """
    loaded = _gathered(paths, _read_row)
    return loaded if verdicts is None else _verified(loaded, *read_verdicts(verdicts))


def read_briefly(paths: Paths) -> LoadedResults:
    """``read``, of each record its ``BRIEF`` fields alone, and on what it was evaluated: where rows are all that is
    asked, the rest is a thousand times as much to hold and to hand from process to process."""
    return _gathered(paths, _read_row_briefly)


def _gathered(paths: Paths, read_one: ReadOne) -> LoadedResults:
    records: dict[str, Record] = {}
    rejected: list[Rejected] = []
    files: dict[str, Path] = {}
    rows: dict[str, Row] = {}
    for root in roots(paths):
        for path, record, row in _with_rows(root, read_one):
            if isinstance(record, Rejected):
                rejected.append(record)
            elif record["key"] not in records:
                records[record["key"]], files[record["key"]], rows[record["key"]] = record, path, row
            elif records[record["key"]]["checksum"] != record["checksum"]:
                rejected.append(
                    Rejected(path, f"another record of trial {record['key'][:12]} was read before")
                )
    every = [records[key] for key in sorted(records)]
    tuning = tuple(record for record in every if is_tuning(record["trial"]))
    tested = tuple(record for record in every if not is_tuning(record["trial"]))
    return LoadedResults(tested, tuple(rejected), files, rows=rows, tuning=tuning)


def _verified(
    loaded: LoadedResults, verdicts: Mapping[str, Verdict], troubled: tuple[Rejected, ...]
) -> LoadedResults:
    """The records with their tiers, without those that were refused."""
    known = tiers(loaded.records, verdicts)
    refused = [key for key, tier in known.items() if tier == REFUSED]
    reasons = {key: "; ".join(map(str, verdicts[key].findings[:3])) for key in refused}
    return LoadedResults(
        tuple(record for record in loaded.records if record["key"] not in reasons),
        (
            *loaded.rejected,
            *troubled,
            *(Rejected(loaded.paths[key], f"verified and refused: {why}") for key, why in reasons.items()),
        ),
        loaded.paths,
        {key: tier for key, tier in known.items() if key not in reasons},
        loaded.rows,
        loaded.tuning,
        checks(loaded.records, verdicts),
    )


def trials(root: Path) -> Iterator[tuple[Path, Record | Rejected]]:
    """Every result file under a folder with its ``BRIEF`` record, or why it isn't used; what can't be searched."""
    return ((path, record) for path, record, _ in _with_rows(root, _read_row_briefly))


def _with_rows(root: Path, read_one: ReadOne) -> Iterator[tuple[Path, Record | Rejected, Row]]:
    """Every result file under a folder with what ``read_one`` says of it; and what can't be searched."""
    places = list(search(root))
    files = [place for place in places if isinstance(place, Path)]
    answers = map(read_one, files) if is_remembering() else iter(spread(read_one, files))
    for place in places:
        if isinstance(place, Rejected):
            yield place.path, place, {}
        else:
            yield place, *next(answers)


def _read_row(path: Path) -> tuple[Record | Rejected, Row]:
    """A record and the row that it makes: one that makes none must not stop the others."""
    record = read_trial(path)
    if isinstance(record, Rejected):
        return record, {}
    try:
        return record, _row(record)
    except Exception as error:  # what the schema has no rule for
        return Rejected(path, f"makes no row: {fault(error)}", fault=True), {}


def _read_row_briefly(path: Path) -> tuple[Record | Rejected, Row]:
    record, row = _read_row(path)
    if isinstance(record, Rejected):
        return record, row
    tests = {
        name: of for name, of in record["trial"].items() if name == "evaluated"
    }  # what it is evaluated on
    return {**{name: record[name] for name in BRIEF}, "trial": tests}, row


def load_results(paths: Paths, verdicts: str | Path | None = None, *, tuning: bool = False) -> pd.DataFrame:
    """One row a trial, indexed by its key; ``frame.attrs["rejected"]`` lists the files left out,
    ``frame.attrs["faults"]`` those that are so by an error of ours.

    tuning: the trials that chose settings for others, on validation data, instead of the others; where settings were
    chosen, ``tuned`` says which, ``tuning_spread`` how far the metric of the candidates was apart, and ``training``
    and ``trial`` have "tuned" in their place, so that methods are compared as they were tuned.

    Measures that a trial doesn't have are missing (NaN or None), never zero. verdicts: a folder of them, by which
    ``tier`` says how far a trial was verified. Raises BadInput where a folder doesn't exist.
    """
    loaded = read_briefly(paths) if verdicts is None else read(paths, verdicts)
    table = frame(loaded.tuning if tuning else loaded.records, loaded.tiers, loaded.rows)
    table.attrs["rejected"] = [str(rejected) for rejected in loaded.rejected]
    table.attrs["faults"] = list(loaded.faults)
    return table


def load_curves(paths: Paths) -> pd.DataFrame:
    """One row an epoch of every trial, in the order of keys and epochs: ``key``, ``label``, ``seed``, ``epoch``, and
    what ``curve.jsonl`` beside a record holds, such as ``step``, ``loss``, ``top1_validation`` in percent (of other
    tasks ``score_validation``), ``density``, ``r_s`` and ``seconds`` of training.

    Of trials that were read in ``load_results`` (whose index ``key`` joins to), failed ones as far as they got;
    those without a curve have no row. ``frame.attrs["rejected"]`` lists what was left out, lines of a curve
    included. Raises BadInput where a folder doesn't exist.
    """
    import pandas as pd

    loaded = read(paths)
    folders: dict[str, Path] = {}
    for file in (file for root in roots(paths) for file in record_files(root)):
        folders.setdefault(file.parent.name, file.parent)
    rejected = [str(one) for one in loaded.rejected]
    rows: list[dict[str, Any]] = []
    for record in loaded.records:
        file = folders.get(record["key"], Path()) / CURVE
        if not file.is_file():
            continue
        points, wrong = curve_points(file)
        named = {"key": record["key"], "label": record["label"], "seed": record["trial"]["seed"]}
        rows += [{**named, **point} for point in points]
        rejected += wrong
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["key", "label", "seed", "epoch"])
    table.attrs["rejected"] = rejected
    return table


def frame(
    records: Iterable[Record],
    tiers: Mapping[str, str] = MappingProxyType({}),
    rows: Mapping[str, Row] = MappingProxyType({}),
) -> pd.DataFrame:
    """Records as a table: see ``load_results``. tiers, and rows as far as they are known: by key."""
    import pandas as pd

    made = [
        {**(rows.get(record["key"]) or _row(record)), "tier": tiers.get(record["key"])} for record in records
    ]
    made = _told_apart(made)
    table = pd.DataFrame(made, columns=[*_row(_NOTHING), "tier"])
    numeric = {key for key, row in MEASURES.items() if row.kind not in WORDS} | {"tuning_spread"}
    for name in table.columns:  # text as objects with None: pandas' own strings would bring NaN
        values = table[name]
        table[name] = (
            values.astype("float64") if name in numeric else values.astype(object).where(values.notna(), None)
        )
    return table.set_index("key")


def roots(paths: Paths) -> list[Path]:
    """One or more results folders as paths. Raises BadInput where one doesn't exist."""
    folders = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"results folder: expected an existing folder, got {str(folder)!r}")
    return folders


def _row(record: Record) -> Row:
    """Flatten one record."""
    trial, measures, provenance = record["trial"], record["measures"], record["provenance"]
    tuning = tuning_of(record)
    named = as_tuned(trial, tuning)
    text = canonical(_identity(named))
    return {
        "key": record["key"],
        "status": record["status"],
        "reason": record["reason"],
        "phase": record["phase"],
        "label": record["label"],
        "method": record["label"],  # as boards and ``compare`` call it
        "control": record["control"],
        **_of_trial(text),
        "seed": trial["seed"],
        "trial": text,
        **_tuned(tuning),
        "versions": _versions(provenance),
        **{key: read(measures) if read else measures.get(key) for key, read in _FRAMED},
        "dataset_fingerprint": provenance.get("dataset_fingerprint"),
        # records of before the rules had a number are by the first
        "evaluation": provenance.get("evaluation", 1 if record["status"] == "ok" else None),
    }


_FRAMED = tuple((key, row.read) for key, row in MEASURES.items() if row.framed)


@lru_cache(4096)  # it is the same for all seeds
def _of_trial(text: str) -> Row:
    """What a row says of its trial's configuration, its seed apart, as JSON."""
    trial = json.loads(text)
    recipe = trial["recipe"]
    return {
        **{kind: spec_text(spec) if (spec := recipe.get(kind)) else None for kind in STRATEGIES},
        "model": spec_text(trial["model"]),
        "dataset": spec_text(trial["dataset"]),
        "density_requested": float(trial["density"]),
        "seed": None,  # each its own
        "training": settings_text(trial),
        "dense_layers": "+".join(recipe.get("dense_layers") or ()) or None,
    }


def as_tuned(trial: Mapping[str, Any], tuning: Tuning | None) -> Mapping[str, Any]:
    """A trial in which settings that were chosen for it say just that: what has the same tuning is the same training,
    whatever was chosen."""
    if tuning is None or not tuning.is_mine:
        return trial
    chosen = dict.fromkeys(tuning.candidates[tuning.mine].settings, TUNED)
    return {**trial, "training": {**trial.get("training", {}), **chosen}}


def _tuned(tuning: Tuning | None) -> dict[str, Any]:
    """How a trial's settings were chosen, for people."""
    if tuning is None:
        return dict.fromkeys(TUNING_COLUMNS)
    return dict(zip(TUNING_COLUMNS, (tuning.said, tuning.spread, tuning.tried), strict=True))


def _told_apart(rows: list[Row]) -> list[Row]:
    """Rows whose settings were chosen say which, where one tuning of results chose this and another that: these are
    different trainings."""
    chosen: dict[str, set[str]] = {}
    for row in rows:
        if row["tuned"]:
            chosen.setdefault(row["trial"], set()).add(_choice(row))
    several = {trial for trial, said in chosen.items() if len(said) > 1}
    return [_with_choice(row) if row["trial"] in several else row for row in rows]


def _choice(row: Row) -> str:
    return str(row["tuned"]).replace(f" ({EDGE})", "")


def _with_choice(row: Row) -> Row:
    trial = json.loads(row["trial"])
    named = {**trial, "training": {**trial["training"], TUNED: _choice(row)}}
    return {**row, "trial": canonical(named), "training": settings_text(named)}


def _identity(trial: Mapping[str, Any]) -> dict[str, Any]:
    """What seeds of one training share: not how its speed is measured, nor where its weights were first."""
    kept = {name: value for name, value in trial.items() if name not in ("seed", "measure")}
    if isinstance(kept.get("start"), Mapping):
        kept["start"] = {name: value for name, value in kept["start"].items() if name != "path"}
    return kept


def settings_text(trial: Mapping[str, Any], without: Container[str] = ()) -> str:
    """What was set beyond the method, "" where nothing was; ``without``: settings to leave out."""
    known = {"model", "dataset", "density", "seed", "recipe", "training", "measure"}
    settings = {**trial.get("training", {}), **{k: v for k, v in trial.items() if k not in known}}
    if isinstance(start := settings.get("start"), Mapping):
        settings["start"] = _start_text(start)
    items = sorted(item for item in settings.items() if item[0] not in without)
    return ", ".join(f"{name}={value_text(value)}" for name, value in items)


def _start_text(start: Mapping[str, Any]) -> str:
    """What a training started from: a name, or the beginning of a file's sha256."""
    source = start.get("name") or str(start.get("sha256"))[:8]
    return f"{source} with a fresh head" if start.get("head") == "fresh" else str(source)


def _versions(provenance: Mapping[str, Any]) -> str | None:
    """The semantic versions of a trial's components, or None where the trial didn't get that far."""
    components = provenance.get("components")
    if not isinstance(components, Mapping) or not components:
        return None
    return ", ".join(f"{kind} v{_version(part)}" for kind, part in sorted(components.items()))


def _version(part: Any) -> str:
    return str(part.get("version")) if isinstance(part, Mapping) else str(part)


_NOTHING: Record = {
    **dict.fromkeys(("key", "status", "reason", "phase", "label", "control")),
    "trial": {"model": {}, "dataset": {}, "density": 0, "seed": 0, "recipe": {}},
    "measures": {},
    "provenance": {},
}
