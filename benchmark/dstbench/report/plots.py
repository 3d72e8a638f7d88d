"""Every plot of the pages as a picture of its own, for a paper: SVG without scripts, and PNG made from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.report.axes import Axis, Frame, Ticks, round_numbers
from dstbench.report.jinja import templates
from dstbench.report.leaderboards import in_order, shown_columns
from dstbench.report.picture import render_picture
from dstbench.report.scores import gain, score_of
from dstbench.report.section import Material, material_of
from dstbench.report.speedup import CIRCLE, DENSE, speedups
from dstbench.report.statistics import pareto
from dstbench.report.table_rows import rows_of
from dstbench.report.trajectories import plotted
from dstbench.report.values import is_missing, ranking_of_row
from dstbench.results.files import make_folder, write_all
from dstbench.results.printable import shortened
from dstbench.results.ranking import Ranking
from dstbench.results.table import LoadedResults

Row = dict[Any, Any]

COLOURS = {
    "s0": "#2f5fe0", "s1": "#d97706", "s2": "#0f8a5f", "s3": "#b83280", "s4": "#0e7490", "s5": "#6b7280",
    "control": "#6d4bc3", "rest": "#c3c9d2", "ink": "#333a45",
}  # fmt: skip
FRAME = Frame(640, 420, left=56, right=20, top=44, bottom=48)
MEASURES: Mapping[
    str, tuple[str, bool]
] = {  # what the metric is drawn against: title, whether less is better
    "training_flops_ratio": ("training FLOPs against dense (theory)", True),
    "inference_flops_ratio": ("inference FLOPs against dense (theory)", True),
    "train_throughput_ratio": ("training speed against dense (measured)", False),
    "inference_throughput_ratio": ("inference speed against dense (measured)", False),
    "bits": ("bits of the stored network (theory)", True),
    "density": ("density", True),
}
NAME = 60  # characters of a name in a legend
SCALE = 2  # pixels of a PNG for one of SVG


@dataclass(frozen=True)
class Dot:
    """One row, in pixels; ``low`` and ``high`` are its interval, or itself."""

    x: float
    y: float
    low: float
    high: float
    colour: str
    name: str
    shape: str = CIRCLE
    hollow: bool = False


@dataclass(frozen=True)
class Stroke:
    """One line, with its points as SVG has them."""

    points: str
    kind: str = "line"
    colour: str = ""


@dataclass(frozen=True)
class Drawing:
    """A plot, laid out."""

    title: str
    x_title: str
    y_title: str
    x_ticks: Ticks
    y_ticks: Ticks
    frame: Frame = FRAME
    dots: Sequence[Dot] = ()
    lines: Sequence[Stroke] = ()
    straight: Sequence[tuple[float, float, float, float]] = ()
    legend: Sequence[tuple[str, str]] = field(default=())

    @property
    def lift(self) -> int:
        """Pixels that the plot is moved down by, for its titles to have room."""
        return max(0, 44 - self.frame.top)

    @property
    def whole(self) -> int:
        """Pixels down to where the legend begins."""
        return self.lift + self.frame.height + max(0, 48 - self.frame.bottom)

    def svg(self) -> str:
        """The picture."""
        height = self.whole + 18 * len(self.legend) + 6
        return templates().get_template("plot.svg.j2").render(drawing=self, height=height)


def write_plots(loaded: LoadedResults, out: str | Path, png: bool = False) -> tuple[Path, ...]:
    """Write every plot of the pages as ``<plot>.svg`` into ``out``, and as ``<plot>.png`` beside it.

    Raises BadInput where PNG is asked for and vl-convert-python isn't there.
    """
    if png and find_spec("vl_convert") is None:
        raise BadInput("--png needs vl-convert-python: pip install 'dstbench[png]'")
    folder, pictures = Path(out), plots(loaded)
    write_all(folder, {f"{name}.svg": svg for name, svg in pictures.items()})
    files = [folder / f"{name}.svg" for name in pictures]
    if png:
        import vl_convert

        make_folder(folder)
        for name, svg in pictures.items():
            files.append(folder / f"{name}.png")
            files[-1].write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))
    return tuple(files)


def plots(loaded: LoadedResults) -> dict[str, str]:
    """Every plot as SVG, by a name that a file can have; the same results give the same bytes."""
    material = material_of(loaded)
    ordered = in_order(material.summary)
    pictures = {"leaderboard": render_picture(shown_columns(ordered))}
    rows: list[Row] = rows_of(ordered["accuracy"])
    structures = sorted({row["structure"] for row in rows if not is_missing(row["structure"])})
    for place in dict.fromkeys((row["model"], row["dataset"]) for row in rows):
        here = [
            row for row in rows if (row["model"], row["dataset"]) == place and not is_missing(row["score"])
        ]
        for key in MEASURES:
            if drawing := _scatter(here, key, " on ".join(place), structures):
                pictures[_slug(ranking_of_row(here[0]).key, key, *place)] = drawing.svg()
    timed = rows_of(ordered["throughput"])
    pictures |= {_slug("speedup", drawing.title): drawing.svg() for drawing in _speedups(timed, structures)}
    return pictures | dict(_trajectories(material))


def _slug(*words: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-.")[:60] for word in words)


def _scatter(rows: Sequence[Row], key: str, place: str, structures: Sequence[str]) -> Drawing | None:
    """The metric against a measure on a logarithmic axis, with the front of what nothing beats in both."""
    known = [row for row in rows if not is_missing(row.get(key)) and row[key] > 0]
    if not [row for row in known if not row["control"]]:
        return None
    title, less = MEASURES[key]
    xs = [row[key] for row in known]
    ranking = ranking_of_row(known[0])
    ends = [score_of(row, end) for row in known for end in ("", "_low", "_high")]
    ys = [value for value in ends if not is_missing(value)]
    if ranking.is_percent:
        pad = max(0.05 * (max(ys) - min(ys)), 0.1)
        low, high = max(0.0, min(ys) - pad), min(100.0, max(ys) + pad)
    else:
        pad = 0.05 * (max(ys) - min(ys)) or 0.05 * abs(ys[0]) or 1.0
        low, high = min(ys) - pad, max(ys) + pad
    across, up = FRAME.x(min(xs) / 1.1, max(xs) * 1.1, logarithmic=True), FRAME.y(low, high)
    dots = [_dot(row, key, across, up, structures) for row in known]
    calm = [row for row in known if not (key.endswith("throughput_ratio") and row["contended"] is True)]
    front = pareto([(row[key] if less else 1 / row[key], gain(row)) for row in calm])
    best = sorted((row[key], score_of(row)) for row, on in zip(calm, front, strict=True) if on)
    line = Stroke(" ".join(f"{across.at(x)},{up.at(y)}" for x, y in best), "front")
    legend = [(COLOURS[f"s{min(i, 5)}"], name) for i, name in enumerate(structures)]
    return Drawing(
        place, f"{title} →",
        f"{'↑' if ranking.sign > 0 else '↓'} {ranking.title}, test{_direction(ranking)}; bars: 95 % t-interval; "
        "dotted: Pareto front",
        across.ticks(_decades(across.low, across.high)), up.ticks(round_numbers(low, high, most=8)),
        dots=dots, lines=[line], legend=[*legend, (COLOURS["control"], "controls")],
    )  # fmt: skip


def _direction(ranking: Ranking) -> str:
    """Said of what isn't better higher, as most readers take it."""
    return f", {ranking.direction}" if ranking.sign < 0 else ""


def _dot(row: Row, key: str, across: Axis, up: Axis, structures: Sequence[str]) -> Dot:
    ends = (
        score_of(row) if is_missing(score_of(row, end)) else score_of(row, end) for end in ("_low", "_high")
    )
    low, high = (up.at(end) for end in ends)
    place = min(structures.index(row["structure"]), 5) if row["structure"] in structures else 5
    colour = COLOURS["control" if row["control"] else f"s{place}"]
    shape = DENSE if row["control"] else CIRCLE
    return Dot(across.at(row[key]), up.at(score_of(row)), low, high, colour, row["method"], shape)


def _decades(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times powers of ten; of a wide axis the powers alone."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    for exponent in range(-12, 16):
        yield from (float(f"{factor}e{exponent}") for factor in factors)


def _speedups(rows: Sequence[Row], structures: Sequence[str]) -> Iterator[Drawing]:
    """The throughput board's plot, a drawing a panel."""
    shown = speedups(rows, structures)
    if shown is None:
        return
    for panel in shown.panels:
        dots = [
            Dot(p.x, p.y, p.low, p.high, COLOURS[p.mark.colour], p.method, p.mark.shape, p.mark.hollow)
            for p in panel.points
        ]
        marks = [(COLOURS[mark.colour], text) for mark, text in shown.legend if mark.shape in (CIRCLE, DENSE)]
        yield Drawing(
            panel.title, "theoretical speed-up →", "↑ measured speed-up; hollow: masked-dense",
            panel.x_ticks, panel.y_ticks, shown.frame, dots, (), (panel.dense, panel.theory), marks,
        )  # fmt: skip


def _trajectories(material: Material) -> Iterator[tuple[str, str]]:
    """The plots over epochs."""
    for title, key, panels in plotted(material):
        for panel, plot in panels:
            lines = [
                Stroke(points, "line dashed" if line.dashed else "line", COLOURS.get(line.colour, "#6b7280"))
                for line, points in plot.lines
            ]
            left, _, right, _ = plot.frame.inside
            level = () if plot.level is None else ((left, plot.level, right, plot.level),)
            legend = [(COLOURS.get(colour, "#6b7280"), shortened(name, NAME)) for name, colour in key]
            drawing = Drawing(
                "", "epoch", "", plot.x_ticks, plot.y_ticks, plot.frame, (), lines, level, legend
            )
            yield _slug("epochs", panel.figure, title), drawing.svg()
