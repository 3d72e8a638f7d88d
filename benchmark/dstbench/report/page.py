"""The leaderboard files: three boards as CSV and Markdown, one offline HTML page, one picture.

All are derived from the records alone: no clock, no paths of the machine, a fixed order. The same results
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.report.boards import BOARDS, Board, is_about_speed
from dstbench.report.details import curves_of, details
from dstbench.report.highlights import about, cards, facts
from dstbench.report.isolation import isolated
from dstbench.report.jinja import part, templates
from dstbench.report.leaderboards import arranged, in_order, shown_columns
from dstbench.report.notes import provenance, reading
from dstbench.report.page_cells import METHOD_PARTS
from dstbench.report.page_data import Listing, embedded, listing, page_columns, page_data
from dstbench.report.picture import render_picture
from dstbench.report.published.below import COMPARED, LEAD, compared
from dstbench.report.published.beside import Beside, stand_beside
from dstbench.report.ranking_rules import rules_digest
from dstbench.report.scores import joined, rankings_of
from dstbench.report.section import Material, Section, material_of
from dstbench.report.sections import sections
from dstbench.report.speedup import speedups
from dstbench.report.text import by_its_metric, to_csv, to_markdown
from dstbench.report.trajectories import exploration_files
from dstbench.report.values import Column, is_missing
from dstbench.results.files import write_all
from dstbench.results.printable import printable
from dstbench.results.ranking import Ranking
from dstbench.results.spread import alongside, is_many, uncollected
from dstbench.results.table import LoadedResults, Paths, read, roots

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]


FILTERS = (*METHOD_PARTS, "model", "dataset", "density_requested", "tier")
VIEWS = (
    ("training_flops_ratio", "training FLOPs (theory)"),
    ("inference_flops_ratio", "inference FLOPs (theory)"),
    ("train_throughput_ratio", "training speed (measured)"),
    ("inference_throughput_ratio", "inference speed (measured)"),
    ("size", "size on disk (theory)"),
    ("density", "density"),
)
"""What the metric is drawn against."""
INDEX = "../index.html"  # of all boards
PLAIN = 300  # rows that are also there as plain tables, for readers without scripts
LIBRARIES = ("dataTables-3.1.5.min.js", "dataTables.scroller-3.1.0.min.js")
SCRIPTS = (
    "data",
    "format",
    "cells",
    "table",
    "axes",
    "plot",
    "panel",
    "main",
)  # in one function, in this order
_LOGO = [
    (x, y, on)
    for y, line in zip((7, 12, 17), ("101", "011", "100"), strict=True)
    for x, on in zip((7, 12, 17), map(int, line), strict=True)
]


@dataclass(frozen=True)
class Written:
    """What ``write_leaderboards`` made: ``tables`` hold our rows alone, files the published ones beside them."""

    tables: dict[str, pd.DataFrame]
    beside: Beside
    files: tuple[Path, ...]
    rejected: tuple[str, ...]
    faults: tuple[str, ...] = ()  # of those rejected, that are so by an error of ours
    remarks: tuple[str, ...] = ()  # as in ``Material``


def write_leaderboards(results: Paths, out: str | Path, verdicts: str | Path | None = None) -> Written:
    """Write ``<board>.csv`` and ``.md``, ``index.html`` and ``leaderboard.svg`` of results folders into ``out``,
    and the page and the tables about exploration where records say how it went.

    Where the results are ``out/results``, as ``dstbench index`` reads boards, the page links to the index above it.
    verdicts: see ``results.table.read``. A record that no board can show is left out by name, as a fault of ours.
    Raises BadInput where a folder of results or verdicts doesn't exist or ``out`` is a file; where the disk is full,
    what was in ``out`` stays.
    """
    folder = Path(out)
    made = make_boards(results, folder, verdicts)
    write_all(folder, made.contents)
    return Written(
        made.boards.tables,
        made.boards.beside,
        tuple(folder / name for name in made.contents),
        tuple(map(str, made.loaded.rejected)),
        made.loaded.faults,
        made.boards.remarks,
    )


@dataclass(frozen=True)
class Made:
    """Boards that aren't written yet."""

    boards: Boards
    contents: Mapping[str, str]  # file name -> its text
    loaded: LoadedResults  # without what could not be shown


def make_boards(results: Paths, out: Path, verdicts: str | Path | None = None) -> Made:
    """What ``write_leaderboards`` writes into ``out``."""
    folders = roots(results)
    indexed = any(path.resolve() == (out / "results").resolve() for path in folders)
    with uncollected():
        (boards, contents), loaded = isolated(
            read(folders, verdicts), lambda given: _contents(given, indexed)
        )
    return Made(boards, contents, loaded)


@dataclass(frozen=True)
class Boards:
    """The boards' tables, of our rows alone, what was published beside them, and what to know before they are
    believed."""

    tables: dict[str, pd.DataFrame]
    beside: Beside
    remarks: tuple[str, ...]


def boards_of(loaded: LoadedResults) -> Boards:
    """The boards of results."""
    material = material_of(loaded)
    return Boards(arranged(material.summary), stand_beside(material.summary), material.remarks)


def _contents(loaded: LoadedResults, indexed: bool) -> tuple[Boards, dict[str, str]]:
    """The boards, and the texts of all files by name."""
    many = is_many(loaded.records)
    curves = alongside(lambda: curves_of(loaded), many)
    material = material_of(loaded)
    ordered, beside = in_order(material.summary), stand_beside(material.summary)
    tables, listed = shown_columns(ordered), listing(ordered, beside)
    shown_below = alongside(lambda: sections(material), many)
    others = alongside(lambda: (exploration_files(loaded, material), _texts(tables, beside)), many)
    groups = [None if row.get("published") else row["group"] for row in listed.rows]
    made = details(material, groups, curves())
    exploration, texts = others()
    below = shown_below()
    page = render_page(listed, material, beside, made, bool(exploration), indexed, below)
    contents = {"index.html": page, "leaderboard.svg": render_picture(tables), **exploration, **texts}
    contents["accuracy.md"] += "".join(f"\n{section.markdown}" for section in below if section.markdown)
    return Boards(tables, beside, material.remarks), contents


def _texts(tables: Mapping[str, pd.DataFrame], beside: Beside) -> dict[str, str]:
    """Each board as CSV and Markdown."""
    texts = {}
    for board in BOARDS:
        whole = beside.within(board.name, tables[board.name])
        texts[f"{board.name}.csv"] = to_csv(by_its_metric(whole))
        texts[f"{board.name}.md"] = to_markdown(whole, board, beside)
    return texts


def render_page(
    listed: Listing,
    material: Material,
    beside: Beside,
    made: Mapping[str, Any],
    explored: bool = False,
    indexed: bool = False,
    below: Sequence[Section] = (),
) -> str:
    """The HTML page: its data once, and the scripts that show them; small boards also as plain tables.

    made: ``details`` of each row; explored: whether there is a page about exploration beside it, to link to; indexed:
    whether one of all boards is above it; below: what follows the tables.
    """
    loaded, rows = material.loaded, listed.rows
    ours = [row for row in rows if not row.get("published")]  # what summaries, filters and axes go by
    blocks = _blocks(ours)
    questions = [cards(rows, model, dataset) for model, dataset in blocks]
    speed_alone = bool(blocks) and all(is_about_speed(dataset) for _, dataset in blocks)
    boards = sorted(BOARDS, key=lambda board: speed_alone and board.name != "throughput")
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            explored=explored,
            index=INDEX if indexed else "",
            rules=rules_digest(),
            sections=below,
            embedded=embedded,
            css=part("page.css"),
            libraries=[part(f"vendored/{name}") for name in LIBRARIES],
            license=part("vendored/dataTables-LICENSE.txt"),
            scripts=[part(f"page/{name}.js") for name in SCRIPTS],
            data=embedded(page_data(listed, blocks, questions, made)),
            logo=_LOGO,
            about=about(ours),
            speed_alone=speed_alone,
            facts=facts(ours, loaded),
            blocks=[
                {"title": f"{model} on {dataset}", "cards": asked}
                for (model, dataset), asked in zip(blocks, questions, strict=True)
            ],
            filters=_filters(ours),
            views=VIEWS,
            boards=[_board(board, listed, rows) for board in boards],
            most=PLAIN,
            speedups=speedups([rows[place] for place in listed.orders["throughput"]], _structures(ours)),
            sources=beside.sources,
            published_lead=LEAD,
            compared=COMPARED,
            comparisons=compared(beside.comparisons),
            words=_words(rankings_of(ours)),
            reading=reading(loaded.records),
            provenance=provenance(loaded.records),
            rejected=[f"{item.place}: {printable(item.reason)}" for item in loaded.rejected],
        )
    )


def _board(board: Board, listed: Listing, rows: Sequence[Row]) -> dict[str, Any]:
    """What stands around a board's table, and the table itself in plain text where it is small."""
    metrics = rankings_of(rows)
    columns = [column for column in page_columns(board, rows) if not column.extra]
    plain = []
    if len(rows) <= PLAIN:
        for place, rank in zip(listed.orders[board.name], listed.ranks[board.name], strict=True):
            row = {**rows[place], "rank": rank}
            plain.append([_said(column, row) for column in columns])
    return {
        "name": board.name,
        "title": board.title(metrics),
        "summary": board.summary(metrics),
        "drawing": board.drawing,
        "columns": columns,
        "rows": plain,
    }


def _words(metrics: Sequence[Ranking]) -> str:
    """What a page's rows are ranked by, in its headings: ``accuracy``, ``loss``, ``accuracy and loss``."""
    return joined([metric.word for metric in metrics])


def _said(column: Column, row: Row) -> str:
    """A cell in plain text, with the badges and reasons that the page's own tables fold into it."""
    text = column.text(row)
    if column.key == "method":
        mark = row.get("published") or (row["control"] and "control")
        parts = " · ".join(row[name] for name in METHOD_PARTS if row[name])
        return " ".join(filter(None, (text, mark and f"({mark})", parts if parts != text else "")))
    if column.key == "statuses":
        return "; ".join(filter(None, (text, row["reason"], None if row.get("published") else row["note"])))
    return text


def _structures(rows: list[Row]) -> list[str]:
    """In the order that gives them their colours, here and in the script."""
    return sorted({row["structure"] for row in rows if not is_missing(row["structure"])})


def _blocks(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["model"], row["dataset"]) for row in rows))


def _filters(rows: list[Row]) -> list[dict[str, Any]]:
    titles = {"density_requested": "density", "dataset": "data set", "tier": "verified"}
    filters = []
    for key in (key for key in FILTERS if key != "tier" or any(row.get(key) for row in rows)):
        values = sorted({row[key] for row in rows if not is_missing(row[key])})
        choices = [
            {
                "value": f"{value:.6g}" if isinstance(value, float) else value,
                "text": f"{value:g}" if isinstance(value, float) else value,
            }
            for value in values
        ]
        filters.append({"key": key, "title": titles.get(key, key), "choices": choices})
    return filters
