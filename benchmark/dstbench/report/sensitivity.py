"""What tuning found, as a section of the page: what each method was tried with on validation data, what it gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dstbench.report.axes import Axis, Frame, round_numbers
from dstbench.report.jinja import part, templates
from dstbench.report.markdown import harmless, line
from dstbench.report.section import Material, Section
from dstbench.report.values import MISSING, show
from dstbench.results.labels import value_text
from dstbench.results.printable import shortened
from dstbench.results.ranking import Ranking, ranking_of
from dstbench.results.tuning import Candidate, Tuning, tuning_of

MOST = 120
"""Plots of a page; of more rows there is the table alone."""
_FRAME = Frame(200, 112, 40, 12, 10, 22)
_LABELS = 6  # that fit below a plot


@dataclass(frozen=True)
class TunedRow:
    """A row of the boards whose settings were chosen."""

    method: str
    control: str | None
    place: str  # "small_cnn on digits"
    density: float
    tuning: Tuning
    metric: Ranking
    spent: str  # in words

    @property
    def name(self) -> str:
        """``rigl at density 0.1``."""
        return f"{self.method} at density {self.density:g}"


def tuning_section(material: Material) -> Section | None:
    """How sensitive methods are to what was tuned; None where nothing was."""
    rows = sorted(tuned_rows(material), key=lambda row: (row.place, -row.density, row.method))
    if not rows:
        return None
    blocks = [
        {"title": place, "metric": f"{here[0].metric.title} on the validation split", "plots": _plots(here)}
        for place in dict.fromkeys(row.place for row in rows)
        if (here := [row for row in rows if row.place == place])
    ]
    html = (
        templates()
        .get_template("sensitivity.html.j2")
        .render(sentences=sentences(rows), blocks=blocks if len(rows) <= MOST else [], table=table(rows))
    )
    return Section(
        "tuning", "Tuning, on validation data", Markup(html), style=part("sensitivity.css"),
        markdown=_markdown(rows),
    )  # fmt: skip


def tuned_rows(material: Material) -> Iterator[TunedRow]:
    """The rows whose settings were chosen, not those in whose place others were."""
    for row in material.summary.to_dict("records"):
        records = material.members.get(row["group"], [])
        known = ((record, tuning_of(record)) for record in records)
        for record, tuning in known:
            if tuning is not None and tuning.is_mine:
                place = f"{row['model']} on {row['dataset']}"
                finished = [one["measures"] for one in records if one["status"] == "ok"]
                metric = ranking_of(finished[0] if finished else {})
                spent = str(record["provenance"].get("tuning") or "")
                yield TunedRow(
                    row["method"], row["control"], place, row["density_requested"], tuning, metric, spent
                )
                break


def sentences(rows: Sequence[TunedRow]) -> list[tuple[str, str]]:
    """What there is to say of all of them."""
    said = [("Spent", "; ".join(dict.fromkeys(row.spent for row in rows if row.spent)) or "not recorded")]
    edge = [f"{row.name} ({row.place}): {row.tuning.said}" for row in rows if row.tuning.at_edge]
    said.append(
        ("At the edge", f"{len(edge)} of {len(rows)} have their best at the edge of the grid, beyond which there may "
         f"be a better one: {_some(edge)}.") if edge else ("At the edge", "Nothing that was chosen is.")
    )  # fmt: skip
    wide = sorted((row for row in rows if row.tuning.spread), key=lambda row: -(row.tuning.spread or 0.0))
    if len(wide) > 1:
        first, last = (
            f"{row.name} ({row.place}), by {_score(row.tuning.spread)}" for row in (wide[0], wide[-1])
        )
        said.append(("How much it matters", f"Most for {first}; least for {last}."))
    failed = sum(len(one.failed) for row in rows for one in row.tuning.candidates)
    if failed:
        trainings = sum(one.trainings for row in rows for one in row.tuning.candidates)
        said.append(("Failed", f"{failed} of {trainings} trainings, which count as worst."))
    none = [f"{row.name} ({row.place})" for row in rows if row.tuning.chosen is None]
    if none:
        said.append(("Nothing to choose", f"Every candidate failed: {_some(none)}."))
    said.append(("Not said", "The metric on validation data is what was chosen by: it is no result. Test data was "
                 "seen by no tuning trial."))  # fmt: skip
    return said


def table(rows: Sequence[TunedRow]) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row each: what was chosen, and what every candidate gave."""
    titles = ["method", "model and data", "density", "chosen", "spread", "tried"]
    return titles, [
        [
            f"{row.method} (control)" if row.control else row.method,
            row.place, f"{row.density:g}", row.tuning.said, _score(row.tuning.spread), row.tuning.tried,
        ]
        for row in rows
    ]  # fmt: skip


def _markdown(rows: Sequence[TunedRow]) -> str:
    titles, cells = table(rows)
    said = [f"- **{topic}**: {harmless(text)}" for topic, text in sentences(rows)]
    lines = [line(titles), line(":--" for _ in titles), *(line(map(harmless, row)) for row in cells)]
    return "\n".join(["## Tuning", "", *said, "", *lines, ""])


def _plots(rows: Sequence[TunedRow]) -> list[dict[str, Any]]:
    """A small plot each, all of one range, so that flat is flat."""
    scores = [one.score for row in rows for one in row.tuning.candidates if one.score is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.5
    return [_plot(row, _FRAME.y(low - room, high + room)) for row in rows]


def _plot(row: TunedRow, y: Axis) -> dict[str, Any]:
    candidates = row.tuning.ordered
    x = _FRAME.x(-0.5, len(candidates) - 0.5)
    chosen = None if row.tuning.chosen is None else row.tuning.candidates[row.tuning.chosen]
    points = [_point(one, x.at(i), y, row, one is chosen) for i, one in enumerate(candidates)]
    finished = [(point["x"], point["y"]) for point in points if not point["failed"]]
    return {
        "title": row.method, "control": row.control, "density": f"{row.density:g}", "said": row.tuning.said,
        "spread": _score(row.tuning.spread), "points": points, "frame": _FRAME,
        "line": " ".join(f"{at:g},{height:g}" for at, height in finished),
        "ticks": y.ticks(round_numbers(y.low, y.high, 3)),
        "setting": ", ".join(candidates[0].settings) if candidates else "",
    }  # fmt: skip


def _point(one: Candidate, at: float, y: Axis, row: TunedRow, chosen: bool) -> dict[str, Any]:
    worst = y.high if row.tuning.better == "lower" else y.low
    fits = len(row.tuning.candidates) <= _LABELS
    label = " ".join(value_text(value) for value in one.settings.values())
    return {
        "x": at, "y": y.at(worst if one.score is None else one.score), "failed": one.score is None,
        "chosen": chosen, "tip": f"{one.text}: {one.said}", "label": shortened(label, 10) if fits else "",
    }  # fmt: skip


def _score(value: float | None) -> str:
    return MISSING if value is None else show("score", value)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "; ".join(names[:5]) + more
