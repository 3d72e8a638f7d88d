"""Measured against theoretical speed-up, as a plot: what a template needs to draw it, without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dstbench.report.axes import Axis, Frame, Ticks
from dstbench.report.boards import is_about_speed, is_close, may_gain
from dstbench.report.values import is_missing, show
from dstbench.results.printable import shortened

Row = dict[Any, Any]

FRAME = Frame(560, 400, left=44, right=16, top=14, bottom=44)
Box = tuple[float, float, float, float]  # left, top, right, bottom
LETTERS, LETTER = 64, 7.2  # of a label: at most so many, each so many pixels wide at most
_TITLES = {"inference": "Inference", "train": "Training"}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CIRCLE = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z"
DENSE = "M0-6.5 6.5 0 0 6.5-6.5 0z"
MOST = 400  # points of a panel
SHAPES = (CIRCLE, "M-4.5-4.5h9v9h-9z", "M0-6 5.6 4.2h-11.2z", "M0 6 5.6-4.2h-11.2z", "M-5.5-2h11v4h-11z")
"""Of the paths that can gain; the last is for all that are left."""


@dataclass(frozen=True)
class Mark:
    """How a point looks: its outline as an SVG path, its colour as a CSS variable, and whether it is hollow."""

    shape: str
    colour: str
    hollow: bool = False


@dataclass(frozen=True)
class Point:
    """One row, in pixels; ``low`` and ``high`` are the quartiles over timing rounds."""

    x: float
    y: float
    low: float
    high: float
    mark: Mark
    pale: bool  # timed beside other work
    tip: str
    method: str
    measured: float
    leads: bool  # may be called the fastest: it gains, undisturbed, and is as good as dense


@dataclass(frozen=True)
class Label:
    """A name beside its point, in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class SpeedupPanel:
    """Training or inference; the lines of "as fast as dense" and "as fast as theory" as x1, y1, x2, y2."""

    title: str
    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    x_ticks: Ticks
    y_ticks: Ticks
    dense: tuple[float, float, float, float]
    theory: tuple[float, float, float, float]


@dataclass(frozen=True)
class SpeedupPlot:
    """Both panels and what their marks mean."""

    panels: tuple[SpeedupPanel, ...]
    legend: tuple[tuple[Mark, str], ...]
    left_out: int = 0  # rows that the larger panel has no room for
    frame: Frame = FRAME


def speedups(rows: Sequence[Row], structures: Sequence[str]) -> SpeedupPlot | None:
    """The throughput board's rows, but for the dense control, which is 1x by definition; None where none is timed.

    ``structures``: all there are on the page, whose order gives them their colours.
    """
    timed = {kind: [row for row in rows if _is_drawn(row, kind)] for kind in _TITLES}
    left_out = max(len(drawn) for drawn in timed.values()) - MOST
    timed = {kind: _foremost(drawn, kind) for kind, drawn in timed.items()}
    fast = sorted(filter(may_gain, {row[f"{kind}_path"] for kind, drawn in timed.items() for row in drawn}))
    panels = [_panel(kind, drawn, fast, structures) for kind, drawn in timed.items() if drawn]
    if not panels:
        return None
    marks = {point.mark for panel in panels for point in panel.points}
    return SpeedupPlot(tuple(panels), tuple(_legend(marks, fast, structures)), max(0, left_out))


def _foremost(rows: list[Row], kind: str) -> list[Row]:
    """What a panel has room for: controls, what runs on a path that can gain, and the fastest, in their order."""
    key = f"{kind}_throughput_ratio"
    order = sorted(rows, key=lambda row: (not row["control"], not may_gain(row[f"{kind}_path"]), -row[key]))
    kept = {id(row) for row in order[:MOST]}
    return [row for row in rows if id(row) in kept]


def _is_drawn(row: Row, kind: str) -> bool:
    known = not any(is_missing(row[f"{kind}_{name}"]) for name in ("theory", "throughput_ratio", "path"))
    return known and row["control"] != "dense"


def _mark(row: Row, kind: str, fast: Sequence[str], structures: Sequence[str]) -> Mark:
    path = row[f"{kind}_path"]
    if path == "dense":
        return Mark(DENSE, "control")
    colour = _colour(row["structure"], structures)
    if path not in fast:
        return Mark(CIRCLE, colour, hollow=True)
    return Mark(_shape(path, fast), colour)


def _colour(structure: str | None, structures: Sequence[str]) -> str:
    return f"s{min(structures.index(structure), 5)}" if structure in structures else "s5"


def _shape(path: str, fast: Sequence[str]) -> str:
    return SHAPES[min(fast.index(path), len(SHAPES) - 1)]


def _panel(kind: str, rows: list[Row], fast: Sequence[str], structures: Sequence[str]) -> SpeedupPanel:
    """Logarithmic axes that end at the same value."""
    theory, measured = ([row[f"{kind}_{name}"] for row in rows] for name in ("theory", "throughput_ratio"))
    left, low = min(1.0, *theory) / 1.15, min(0.8, *measured) / 1.15
    high = max(2.0, *theory, *measured) * 1.15
    across, up = FRAME.x(left, high, logarithmic=True), FRAME.y(low, high, logarithmic=True)
    points = [_point(row, kind, _mark(row, kind, fast, structures), across, up) for row in rows]
    start = max(left, low)
    return SpeedupPanel(
        _TITLES[kind],
        tuple(sorted(points, key=lambda point: not point.mark.hollow)),  # what is real lies on top
        tuple(_labels(points)),
        across.ticks(TICKS, "×"),
        up.ticks(TICKS, "×"),
        (across.at(left), up.at(1), across.at(high), up.at(1)),
        (across.at(start), up.at(start), across.at(high), up.at(high)),
    )


def _point(row: Row, kind: str, mark: Mark, across: Axis, up: Axis) -> Point:
    key = f"{kind}_throughput_ratio"
    low, high = (row[key] if is_missing(row[end]) else row[end] for end in (f"{key}_low", f"{key}_high"))
    return Point(
        across.at(row[f"{kind}_theory"]),
        up.at(row[key]),
        up.at(low),
        up.at(high),
        mark,
        row["contended"] is True,
        _tip(row, kind),
        row["method"],
        row[key],
        _leads(row, mark),
    )


def _leads(row: Row, mark: Mark) -> bool:
    kept = is_about_speed(row["dataset"]) or is_close(row)
    return kept and not (row["control"] or mark.hollow or row["contended"] is True)


def _labels(points: Sequence[Point]) -> Iterator[Label]:
    """Names of the fastest point and of smaller dense networks, where they cover nothing else."""
    fastest = sorted((p for p in points if p.leads), key=lambda p: -p.measured)[:1]
    controls = sorted((p for p in points if p.mark.shape == DENSE), key=lambda p: (len(p.method), p.method))
    left, top, right, bottom = FRAME.inside
    taken = [(p.x - 7, p.y - 7, p.x + 7, p.y + 7) for p in points]
    taken.append((left, top, left + 90, top + 40))  # the panel's own title
    for point in (*fastest, *controls):
        text = shortened(f"{'★ ' if point in fastest else ''}{point.method}", LETTERS)
        width = LETTER * len(text)
        for x, y in _beside(point, width):
            box = (x - 1, y - 11, x + width + 1, y + 3)
            inside = left <= box[0] and box[2] <= right and top <= box[1] and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield Label(round(x, 1), round(y, 1), text)
                break


def _beside(point: Point, width: float) -> Iterator[tuple[float, float]]:
    """Where a text of this width may begin, the nearest first."""
    for away in (10, 24, 40, 60):
        for y in (point.y + 4, point.y - 10, point.y + 18):
            yield point.x - away - width, y
            yield point.x + away, y
    yield point.x - width / 2, point.y - 11
    yield point.x - width / 2, point.y + 20


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]


def _tip(row: Row, kind: str) -> str:
    key = f"{kind}_throughput_ratio"
    place = f"{row['model']} on {row['dataset']}, density {row['density_requested']:g}"
    theory = (
        f"theory {show('ratio', row[f'{kind}_theory'])}, hardware {show('ratio', row[f'{kind}_hardware'])}"
    )
    contended = ", beside other work" if row["contended"] is True else ""
    measured = f"measured {show('ratio', row[key])}, {row[f'{kind}_path']}{contended}"
    return "\n".join((row["method"], place, theory, measured))


def _legend(marks: set[Mark], fast: Sequence[str], structures: Sequence[str]) -> list[tuple[Mark, str]]:
    """Colours are structures, outlines are paths; structures beyond the sixth share a colour."""
    colours = {mark.colour for mark in marks}
    named: dict[str, list[str]] = {}
    for structure in structures:
        named.setdefault(_colour(structure, structures), []).append(structure)
    entries = [(Mark(CIRCLE, c), ", ".join(names)) for c, names in named.items() if c in colours]
    shapes: dict[str, list[str]] = {}
    for path in fast:
        shapes.setdefault(_shape(path, fast), []).append(path)
    entries += [(Mark(shape, "ink"), ", ".join(paths)) for shape, paths in shapes.items()]
    if any(mark.hollow for mark in marks):
        entries.append((Mark(CIRCLE, "ink", hollow=True), "masked-dense: no speed-up claimed"))
    if any(mark.shape == DENSE for mark in marks):
        entries.append((Mark(DENSE, "control"), "control: a smaller dense network"))
    return entries
