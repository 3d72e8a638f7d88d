"""One page over several boards: what each found, and for every method its parts, formula, paper and places.

What stands in it follows from the records and from the components that are installed: the same give the same bytes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.hookspecs import STRATEGIES
from dstbench.registration.registry import Component, Registry
from dstbench.report.boards import is_about_speed
from dstbench.report.highlights import about, cards
from dstbench.report.jinja import part as text_of
from dstbench.report.jinja import templates
from dstbench.report.leaderboards import in_order, summarise
from dstbench.report.notes import provenance
from dstbench.report.scores import shows
from dstbench.report.table_rows import rows_of
from dstbench.report.values import Column, is_missing
from dstbench.results.printable import counted
from dstbench.results.table import frame, read

Row = dict[Any, Any]

STANDING = (
    Column("board", "board", "The board's folder."),
    Column("place", "on", "Model and data set."),
    Column("density_requested", "density", "Requested share of active weights.", "fraction"),
    Column("rank", "#", "Mean rank by the metric over the board's blocks.", "rank"),
    Column("seeds", "n", "Seeds in the means.", "integer"),
    Column("top1", "top-1 %", "Mean over seeds, with its 95 % interval.", "accuracy", interval=True),
    Column("score", "other metric", "Mean over seeds, with its 95 % interval.", "score", interval=True),
    Column("metric", "metric", "What it is ranked by."),
    Column("better", "better", "Which way the metric is better."),
    Column(
        "difference",
        "Δ dense",
        "Paired by seed, in the metric's own sense and unit: percent points of top-1.",
        "points",
        interval=True,
    ),
    Column("training_flops_ratio", "train FLOPs", "In theory, against dense.", "cost"),
    Column("inference_throughput_ratio", "infer speed", "Measured, against dense.", "speed"),
    Column("setting", "setting", "Training settings that differ from the defaults; layers left dense."),
)
_PAPER = re.compile(r"arXiv[ :](?P<number>\d{4}\.\d{4,5})")
_NOISE = "trained on noise, to be timed"


@dataclass(frozen=True)
class BoardEntry:
    """One board: its folder's name, what it is about, its cards' first answers, and how much went into it."""

    name: str
    title: str
    answers: tuple[tuple[str, str, str, str], ...]  # question, figure, whose it is, the control beside it
    counts: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Part:
    """One component: what its code says of it."""

    kind: str
    name: str
    summary: str
    text: str  # what it is and where it departs from its paper
    formula: str
    parameters: str
    papers: tuple[tuple[str, str], ...]  # what is written, and its address


@dataclass(frozen=True)
class MethodEntry:
    """One method: its recipe where it is one, its parts as the records name them, and where it stands."""

    name: str
    recipe: Part | None
    parts: tuple[tuple[str, str], ...]  # kind and component with parameters
    standings: tuple[tuple[str, ...], ...]


def write_index(folder: str | Path, installed: Registry) -> Path:
    """Write ``index.html`` over the boards ``*/results`` in a folder. Raises BadInput where there is none."""
    root = Path(folder)
    boards = [_board(path.parent) for path in sorted(root.glob("*/results")) if path.is_dir()]
    if not boards:
        raise BadInput(f"index: expected a folder of boards, each with its results/, got {str(root)!r}")
    out = root / "index.html"
    out.write_text(render_index(boards, installed), encoding="utf-8", newline="\n")
    return out


def render_index(boards: Sequence[BoardEntry], installed: Registry) -> str:
    """The page."""
    standing = _standing(boards)
    methods = _methods(boards, installed, standing)
    parts = _used(methods, installed)
    return (
        templates()
        .get_template("index.html.j2")
        .render(
            css=text_of("page.css"),
            boards=boards,
            methods=methods,
            parts=parts,
            known={slug(part.kind, part.name) for part in parts},
            standing=standing,
            slug=slug,
        )
    )


def _standing(boards: Sequence[BoardEntry]) -> tuple[Column, ...]:
    """The columns that say something of some row."""
    metrics = {row["metric"] for board in boards for row in board.rows}
    return tuple(column for column in STANDING if shows(column.key, metrics))


def slug(*words: str) -> str:
    """A fragment of an address."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)


def _board(folder: Path) -> BoardEntry:
    loaded = read([folder / "results"])
    rows = rows_of(in_order(summarise(frame(loaded.records)))["accuracy"])
    blocks = dict.fromkeys((row["model"], row["dataset"]) for row in rows)
    several = len(blocks) > 1
    answers = [
        (f"{card.what}{f' ({model} on {dataset})' if several else ''}", first.value, first.who, first.beside)
        for model, dataset in blocks
        for card in cards(rows, model, dataset)
        for first in [card.first]
    ]
    finished = sum(record["status"] == "ok" for record in loaded.records)
    ran = dict(provenance(loaded.records)).get("trials ran", "")
    counts = f"{finished:,} of {counted(len(loaded.records), 'trial')} finished{f', {ran}' if ran else ''}"
    if rows and all(is_about_speed(dataset) for _, dataset in blocks):
        counts = f"{_NOISE}; {counts}"
    return BoardEntry(folder.name, about(rows), tuple(answers), counts, tuple(rows))


def _methods(
    boards: Iterable[BoardEntry], installed: Registry, standing: Sequence[Column]
) -> list[MethodEntry]:
    """Every method on a board, recipes and controls before combinations of parts."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row["method"], []).append((board.name, row))
    entries = [_method(name, rows, installed, standing) for name, rows in found.items()]
    return sorted(entries, key=lambda entry: (entry.recipe is None, entry.name))


def _method(
    name: str, rows: Sequence[tuple[str, Row]], installed: Registry, standing: Sequence[Column]
) -> MethodEntry:
    _, first = rows[0]
    parts = tuple((kind, str(first[kind])) for kind in STRATEGIES if not is_missing(first[kind]))
    standings = tuple(
        tuple(column.text(_said(board, row, column)) for column in standing) for board, row in rows
    )
    return MethodEntry(name, _part(installed, "recipe", _name(name)), parts, standings)


def _said(board: str, row: Row, column: Column) -> Row:
    """A row with its place in words; what was learnt of noise says nothing."""
    said = {**row, "board": board, "place": f"{row['model']} on {row['dataset']}"}
    if is_about_speed(row["dataset"]) and column.key in ("rank", "top1", "score", "difference"):
        said[column.key] = None
    return said


def _used(methods: Iterable[MethodEntry], installed: Registry) -> list[Part]:
    """The components that the methods are made of, by kind."""
    names = {(kind, _name(text)) for method in methods for kind, text in method.parts}
    order = {kind: place for place, kind in enumerate(STRATEGIES)}
    listed = sorted(names, key=lambda item: (order[item[0]], item[1]))
    return [found for kind, name in listed if (found := _part(installed, kind, name))]


def _part(installed: Registry, kind: str, name: str) -> Part | None:
    """What is known of a component; None of what isn't installed here."""
    if name not in installed[kind]:
        return None
    component = installed[kind][name]
    target = component.load()
    text = inspect.getdoc(target) or component.summary
    call = (
        inspect.getdoc(inspect.getattr_static(target, "__call__", None)) if inspect.isclass(target) else None
    )
    papers = {match[0]: f"https://arxiv.org/abs/{match['number']}" for match in _PAPER.finditer(text)}
    parameters = _parameters(component)
    return Part(kind, name, component.summary, text, call or "", parameters, tuple(papers.items()))


def _parameters(component: Component) -> str:
    """Such as ``alpha = 0.3, delta_t = 100``, an alias with what it sets."""
    values: Mapping[str, Any] = {p.name: p.default for p in component.parameters() if not p.required}
    required = [p.name for p in component.parameters() if p.required]
    return ", ".join(
        [*required, *(f"{name} = {value}" for name, value in {**values, **component.bound}.items())]
    )


def _name(text: str) -> str:
    """``rigl`` of ``rigl(alpha=0.5)``."""
    return text.partition("(")[0]
