"""Published figures beside ours: rows of their own in a board, numbered sources, and the differences.

A published row is shown only: it has no rank, no interval, no part in any statistic, and no difference to our
dense network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dstbench.report.published.figures import Figure, Table, published_tables
from dstbench.report.table_rows import rows_of
from dstbench.report.values import is_missing
from dstbench.results.tuning import TUNED
from dstbench.runner.matrix.config import Training

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]
Place = tuple[str, str, float]  # model, data set and density as our rows say them

PUBLISHED_IN = ("accuracy", "flops")  # speeds are measured here or not at all
OF_SCHEDULE = ("step_epochs", "milestones", "gamma")  # told only between equal schedules
COLUMNS = ("published", "spread", "source", "address")
_VARIANT = re.compile(r"(?:init|structure)=[^,()]+(?:\([^()]*\))?")


@dataclass(frozen=True)
class Source:
    """A numbered source below a board, with the footnotes that its rows there use."""

    number: int
    table: Table
    footnotes: tuple[tuple[str, str], ...]  # (letter, text)


@dataclass(frozen=True)
class Beside:
    """What was published for the places of a leaderboard: nothing where all three are empty."""

    rows: tuple[Row, ...] = ()
    sources: tuple[Source, ...] = ()
    comparisons: tuple[Row, ...] = ()

    def within(self, board: str, table: pd.DataFrame) -> pd.DataFrame:
        """The board with the published rows in; one that has none stays as it is, column for column."""
        return _within(table, self.rows) if self.rows and board in PUBLISHED_IN else table


def stand_beside(summary: pd.DataFrame) -> Beside:
    """What was published for the models, data sets and densities of ``summarise``'s table."""
    ours = rows_of(summary)
    places = dict.fromkeys(_place(row) for row in ours)
    placed = [(place, name, figure) for place in sorted(places, key=_order) for name, figure in _of(place)]
    sources = _sources(placed)
    rows = [_row(place, figure, sources[name]) for place, name, figure in placed]
    compared = [
        _comparison(row, place, figure, sources[name])
        for place, name, figure in placed
        for row in ours
        if _place(row) == place and same_method(row["method"], figure.recipe) and not is_missing(row["top1"])
    ]
    return Beside(tuple(rows), tuple(sources.values()), tuple(compared))


def bare(name: str) -> str:
    """``cifar10`` of ``cifar10(validation=6000)``."""
    return name.partition("(")[0]


def same_method(label: str, recipe: str | None) -> bool:
    """Whether our label is a published method's recipe: other intervals or fractions leave it the same method,
    which the label shows; another init or structure makes another one."""
    return recipe is not None and (bare(label), _variant(label)) == (bare(recipe), _variant(recipe))


def _variant(label: str) -> list[str]:
    return sorted(_VARIANT.findall(label))


def _place(row: Mapping[Any, Any]) -> Place:
    return row["model"], row["dataset"], row["density_requested"]


def _order(place: Place) -> tuple[str, str, float]:
    return place[0], place[1], -place[2]


def _of(place: Place) -> list[tuple[str, Figure]]:
    """Figures of a model (timm's goes by its own name) and a data set, whatever the data set's parameters.

    A model's parameters make another network: it matches none. Left out: what a source copied from another,
    and what was read off a chart, which is no match for printed figures.
    """
    model, dataset, density = place[0].removeprefix("timm:"), bare(place[1]), place[2]
    figures = [
        (name, figure)
        for name, table in published_tables().items()
        if model in table.model and table.dataset == dataset and table.grade != "digitised from a figure"
        for figure in table.figures
        if figure.density == density and not figure.copied_from and figure.top1 is not None
    ]
    return sorted(figures, key=lambda item: -item[1].percent)


def _sources(placed: Sequence[tuple[Place, str, Figure]]) -> dict[str, Source]:
    """Sources by the name of their table, numbered as they come; footnotes lettered as the table orders them."""
    tables = published_tables()
    used: dict[str, set[str]] = {}
    for _, name, figure in placed:
        used.setdefault(name, set()).update(figure.footnotes)
    return {
        name: Source(
            number,
            tables[name],
            tuple(
                zip(
                    ascii_lowercase,
                    (text for key, text in tables[name].footnotes.items() if key in used[name]),
                    strict=False,
                )
            ),
        )
        for number, name in enumerate(used, 1)
    }


def _mark(figure: Figure, source: Source) -> str:
    """``[2a,c]``: the second source, with two of its footnotes."""
    texts = {source.table.footnotes[key] for key in figure.footnotes}
    return f"[{source.number}{','.join(letter for letter, text in source.footnotes if text in texts)}]"


def _row(place: Place, figure: Figure, source: Source) -> Row:
    """A published figure under the names of our columns; every other column is missing."""
    return {
        "method": figure.method,
        **dict(zip(("model", "dataset", "density_requested"), place, strict=True)),
        "seeds": figure.seeds,
        "top1": figure.top1,
        "score": figure.top1,
        "r_s": figure.r_s,
        "training_flops_ratio": figure.train_flops,
        "inference_flops_ratio": figure.infer_flops,
        "hardware_flops_ratio": figure.hardware_flops,
        "note": "; ".join(source.table.footnotes[key] for key in figure.footnotes) or None,
        "published": _mark(figure, source),
        "spread": figure.spread or None,
        "source": source.table.source,
        "address": source.table.address,
    }


def _within(table: pd.DataFrame, rows: Iterable[Row]) -> pd.DataFrame:
    """Put published rows behind ours of the same model, data set and density."""
    import pandas as pd

    there: dict[Place, list[Row]] = {}
    for row in rows:
        there.setdefault(_place(row), []).append(row)
    blank = dict.fromkeys((*table.columns, *COLUMNS))
    ours = [{**blank, **row} for row in rows_of(table)]
    mixed: list[Row] = []
    for row, after in zip(ours, [*ours[1:], None], strict=True):
        mixed.append(row)
        if after is None or _place(after) != _place(row):
            mixed += [{key: published.get(key) for key in blank} for published in there.pop(_place(row), [])]
    whole = pd.DataFrame(mixed, columns=list(blank))
    for key in blank:
        values = whole[key]
        numeric = key in table and table[key].dtype == "float64"
        whole[key] = (
            values.astype("float64") if numeric else values.astype(object).where(values.notna(), None)
        )
    return whole


def _comparison(ours: Row, place: Place, figure: Figure, source: Source) -> Row:
    """Ours minus published, percent points, and which training settings are known to differ."""
    return {
        "method": ours["method"],
        **dict(zip(("model", "dataset", "density_requested"), place, strict=True)),
        "setting": ours["setting"],
        "seeds": ours["seeds"],
        "top1": ours["top1"],
        "published_top1": figure.top1,
        "published": _mark(figure, source),
        "difference": ours["top1"] - figure.percent,
        "protocol": protocol(ours["trial"], source.table.training),
    }


def protocol(trial: str, theirs: Mapping[str, Any]) -> str:
    """What is known to differ in training: ``epochs 1 (theirs 100), nesterov true (false)``."""
    if not theirs:
        return "theirs is not known"
    try:
        said = json.loads(trial).get("training", {})
        chosen = [name for name, value in said.items() if value == TUNED]
        training = Training.model_validate_json(
            json.dumps({n: v for n, v in said.items() if n not in chosen})
        )
    except ValidationError:  # a record of another version
        return "ours is not known"
    ours = training.model_dump(mode="json") | dict.fromkeys(chosen, TUNED)
    differing = [
        f"{name} {_said(ours[name])} ({_said(value)})"
        for name, value in theirs.items()
        if ours[name] != value and not (name in OF_SCHEDULE and ours["schedule"] != theirs.get("schedule"))
    ]
    if not differing:
        return f"same {', '.join(theirs)}; the rest is not compared"
    return ", ".join(differing).replace("(", "(theirs ", 1)


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
