"""How methods explore, over time and by layer: a table of a trial's epochs, one of its layers, and a page of plots.

All from records alone, like the leaderboards; those that were made before trajectories were recorded, and
dense trainings, have nothing to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import fsum, nan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.report.jinja import part, templates
from dstbench.report.leaderboards import PLACE
from dstbench.report.lines import Line, LinePlot, plot
from dstbench.report.scores import gain
from dstbench.report.section import Material, material_of
from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.table_rows import rows_of
from dstbench.report.text import csv_text
from dstbench.report.values import Column, is_missing
from dstbench.results.files import write_all
from dstbench.results.table import LoadedResults

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

Row = dict[Any, Any]
Records = Sequence[Mapping[str, Any]]

IDENTITY = ("model", "dataset", "density_requested", "method", "control", "setting", "seeds")
CHANNEL_FIGURES = (
    "below_100", "null_100", "below_80", "null_80", "below_50", "null_50", "gini", "cv", "dead",
)  # fmt: skip
FIGURES = ("r_s", "never_dropped", "bottom_previous", "bottom_final", *CHANNEL_FIGURES)
CHANCE = 0.3  # overlap of random bottom sets: channel_statistics.BOTTOM, said again for that one needs torch
LAYER_FIGURES = ("layer", "shape", "density", "r_s", "never_dropped", *CHANNEL_FIGURES)
REST = "rest"
MOST = 200  # methods in the tables of the page; all are in the CSV files
COLOURED = 6  # lines with a colour of their own; more can't be told apart


@dataclass(frozen=True)
class CurvePanel:
    """One plot of a block: a figure over epochs, and what chance gives for it."""

    figure: str
    title: str
    help: str
    null: str | None = None  # a figure, drawn dashed in the line's colour
    level: float | None = None  # a constant


PANELS = (
    CurvePanel("r_s", "R_s", "Share of all weights that were ever active."),
    CurvePanel("never_dropped", "Never dropped", "Share of the initial weights that every topology since has held."),
    CurvePanel(
        "bottom_final", "Bottom set found",
        "Share of the final bottom set of channels that is in it already; dashed: by chance.", level=CHANCE,
    ),
    CurvePanel(
        "below_80", "Channels below 0.8 × mean",
        "Share of channels with a density below 0.8 times their layer's mean; dashed: by chance.", "null_80",
    ),
    CurvePanel(
        "below_50", "Channels below 0.5 × mean",
        "The same with densities below half of the mean; dashed: by chance.", "null_50",
    ),
    CurvePanel("dead", "Dead channels", "Share of channels without a weight."),
)  # fmt: skip

COLUMNS = (
    Column("method", "method", "The recipe's name, or init · structure · prune · grow."),
    Column("seeds", "n", "Seeds in the means.", "integer"),
    Column("epoch", "epochs", "How long it was trained.", "integer"),
    Column("r_s", "R_s", PANELS[0].help, "fraction"),
    Column("never_dropped", "never dropped", PANELS[1].help, "fraction"),
    Column("bottom_early", "bottom set early", "Of the final bottom set, what was in it after a quarter of the "
           "training. Chance: 0.3.", "fraction"),
    Column("below_100", "below mean", "Share of channels with a density below their layer's mean.", "fraction"),
    Column("null_100", "chance", "The same by chance: Binomial(fan-in, density).", "fraction"),
    Column("below_80", "below 0.8×", "Below 0.8 times the mean.", "fraction"),
    Column("null_80", "chance", "The same by chance.", "fraction"),
    Column("below_50", "below 0.5×", "Below half of the mean.", "fraction"),
    Column("null_50", "chance", "The same by chance.", "fraction"),
    Column("gini", "Gini", "Of the channels' densities within a layer; 0: all are equally dense.", "fraction"),
    Column("dead", "dead", PANELS[5].help, "fraction"),
)  # fmt: skip
LAYER_COLUMNS = (
    Column("layer", "layer", "A layer with a mask, in the order of the model."),
    Column("shape", "shape", "Of its weight."),
    Column("density", "density", "Active weights at the end / all.", "fraction"),
    *(column for column in COLUMNS if column.key not in ("method", "seeds", "epoch", "bottom_early")),
)


@dataclass(frozen=True)
class Trajectory:
    """A method on a model, a data set and a density, and its finished trials: the seeds."""

    row: Row  # the fields of IDENTITY, as on the boards
    records: Records

    @cached_property
    def curve(self) -> list[Row]:
        """One row an epoch: the means over seeds of FIGURES."""
        trials = [record["measures"]["exploration"] for record in self.records]
        epochs = sorted({epoch for trial in trials for epoch in trial["epoch"]})
        columns = [epochs, *(_averages(trials, name, epochs) for name in FIGURES)]
        return [dict(zip(("epoch", *FIGURES), values, strict=True)) for values in zip(*columns, strict=True)]

    @property
    def end(self) -> Row:
        """The last epoch, and what of the bottom set was found early."""
        early = [record["measures"].get("bottom_early") for record in self.records]
        return {**self.curve[-1], "bottom_early": _average(early)}

    @cached_property
    def layers(self) -> list[Row]:
        """One row a layer, at the end."""
        layers: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for record in self.records:
            for layer in record["measures"].get("layers") or ():
                layers.setdefault((layer["name"], *map(str, layer["shape"])), []).append(layer)
        return [_layer(seeds) for seeds in layers.values()]


def trajectories(loaded: LoadedResults, material: Material | None = None) -> list[Trajectory]:
    """What has a trajectory, by model, data set and density, the best first; rows as on the boards.

    material: that of the same results, where it is there already.
    """
    import pandas as pd

    whole = material or material_of(loaded)
    known = {name: [r for r in records if _is_known(r)] for name, records in whole.members.items()}
    groups: dict[str, Records] = {name: records for name, records in known.items() if records}
    if not groups:
        return []
    summary = whole.summary[whole.summary["group"].isin(groups)]
    with_one = [groups[group] for group in summary["group"]]  # seeds without one don't count here
    scores = dict(zip(whole.trials.index, whole.trials["score"].tolist(), strict=True))
    means = [
        _average([None if is_missing(score := scores[r["key"]]) else score for r in rs]) for rs in with_one
    ]
    summary = summary.assign(
        seeds=[float(len(records)) for records in with_one],
        score=pd.Series(means, summary.index, dtype="float64"),
    )
    order = ["model", "dataset", "density_requested", "gain", "method", "group"]
    gains = [nan if is_missing(row["score"]) else gain(row) for row in rows_of(summary)]
    summary = summary.assign(gain=gains)
    summary = summary.sort_values(order, ascending=[True, True, False, False, True, True])
    return [
        Trajectory({name: row[name] for name in IDENTITY}, groups[row["group"]]) for row in rows_of(summary)
    ]


def _is_known(record: Mapping[str, Any]) -> bool:
    return record["status"] == "ok" and bool((record["measures"].get("exploration") or {}).get("epoch"))


def over_time(listed: Sequence[Trajectory]) -> pd.DataFrame:
    """One row an epoch of every setting."""
    return _table(
        [{**member.row, **point} for member in listed for point in member.curve], ("epoch", *FIGURES)
    )


def at_the_end(listed: Sequence[Trajectory]) -> pd.DataFrame:
    """One row a setting."""
    return _table([{**member.row, **member.end} for member in listed], ("epoch", *FIGURES, "bottom_early"))


def by_layer(listed: Sequence[Trajectory]) -> pd.DataFrame:
    """One row a layer of every setting, at the end."""
    rows = [{**member.row, **layer} for member in listed for layer in member.layers]
    return _table(rows, LAYER_FIGURES)


def _csv(keys: Sequence[str], listed: Iterable[tuple[Row, list[Row]]]) -> str:
    """As ``to_csv`` of ``over_time`` and ``by_layer``, without their tables of a row a line."""
    lines = [",".join((*IDENTITY, *keys))]
    for row, points in listed:
        before = ",".join(csv_text(row[name]) for name in IDENTITY)
        lines += [f"{before},{','.join([csv_text(point[name]) for name in keys])}" for point in points]
    return "\n".join(lines) + "\n"


def exploration_files(loaded: LoadedResults, material: Material | None = None) -> dict[str, str]:
    """The texts of ``exploration.html``, ``.csv`` and ``exploration_layers.csv``; {} where nothing is known."""
    listed = trajectories(loaded, material)
    if not listed:
        return {}
    return {
        "exploration.html": _page(listed),
        "exploration.csv": _csv(("epoch", *FIGURES), ((m.row, m.curve) for m in listed)),
        "exploration_layers.csv": _csv(LAYER_FIGURES, ((m.row, m.layers) for m in listed)),
    }


def write_exploration(loaded: LoadedResults, out: str | Path) -> list[Path]:
    """Write these files into ``out``, the page first; none where nothing is known.

    Raises BadInput where ``out`` is a file; where the disk is full, what was in it stays.
    """
    folder, contents = Path(out), exploration_files(loaded)
    if contents:
        write_all(folder, contents)
    return [folder / name for name in contents]


def render_exploration(listed: Sequence[Trajectory], layers: bool = False) -> RenderableType:
    """For the terminal: a table per model, data set and density, or one per method with its layers.

    Without what lies below the mean itself: by chance that is half of the channels, whatever the method.
    """
    from rich.console import Group
    from rich.text import Text

    def drawn(title: str, columns: Sequence[Column], rows: list[Row]) -> Sheet:
        name, *others = (c for c in columns if c.key not in ("epoch", "below_100", "null_100"))
        fields = tuple(Field(c.title, place, c.numeric) for place, c in enumerate(others))
        entries = tuple(Entry(name.text(row), tuple(c.text(row) for c in others)) for row in rows)
        return Sheet(fields, (entries,), title=f"\n{title}", name=name.title)

    if not listed:
        return Text("No trajectories yet: dense trainings have none, nor have older records.")
    tables: list[RenderableType] = []
    for title, members in _blocks(listed):
        if layers:
            names = zip(members, _names(members), strict=True)
            tables += [drawn(f"{name}: {title}", LAYER_COLUMNS, member.layers) for member, name in names]
        else:
            tables.append(drawn(title, COLUMNS, _ends(members)))
    legend = (
        "below: share of channels sparser than that × their layer's mean · chance: Binomial(fan-in, density)"
    )
    return Group(*tables, Text(legend, style="dim"))


def _blocks(listed: Sequence[Trajectory]) -> list[tuple[str, list[Trajectory]]]:
    """Settings by model, data set and density, with a title."""
    groups = groupby(listed, lambda member: tuple(member.row[name] for name in PLACE))
    return [(f"{place[0]} on {place[1]} at density {place[2]:g}", list(members)) for place, members in groups]


def _ends(members: Sequence[Trajectory]) -> list[Row]:
    return [
        {**member.row, **member.end, "method": name}
        for member, name in zip(members, _names(members), strict=True)
    ]


def _table(rows: list[Row], keys: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=[*IDENTITY, *keys])


def _layer(seeds: Sequence[Mapping[str, Any]]) -> Row:
    """One layer's figures, means over seeds."""
    shape, channels = seeds[0]["shape"], [layer.get("channels") or {} for layer in seeds]
    return {
        "layer": seeds[0]["name"],
        "shape": "×".join(map(str, shape)),
        "density": _average([layer["active"] / prod(shape) for layer in seeds]),
        **{name: _average([layer.get(name) for layer in seeds]) for name in ("r_s", "never_dropped")},
        **{name: _average([figures.get(name) for figures in channels]) for name in CHANNEL_FIGURES},
    }


def _averages(
    trials: Sequence[Mapping[str, Sequence[Any]]], name: str, epochs: Sequence[float]
) -> list[float | None]:
    """One figure at each epoch, means over the trials that have it there."""
    columns = []
    for trial in trials:
        values = trial.get(name) or (None,) * len(trial["epoch"])
        if trial["epoch"] != epochs:
            known = dict(zip(trial["epoch"], values, strict=True))
            values = [known.get(epoch) for epoch in epochs]
        columns.append(values)
    return [_average(values) for values in zip(*columns, strict=True)]


def _average(values: Sequence[float | None]) -> float | None:
    if len(values) == 1:
        return values[0]
    if None not in values:
        return fsum(values) / len(values)  # type: ignore[arg-type]
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None


# The page


def _page(listed: Sequence[Trajectory]) -> str:
    groups = _blocks(listed)
    most = max(COLOURED, MOST // max(1, len(groups)))
    blocks = [_block(title, members[:most], len(members)) for title, members in groups]
    return (
        templates()
        .get_template("trajectories.html.j2")
        .render(css=part("page.css"), blocks=blocks, columns=COLUMNS, layer_columns=LAYER_COLUMNS)
    )


def plotted(
    material: Material,
) -> list[tuple[str, list[tuple[str, str]], list[tuple[CurvePanel, LinePlot]]]]:
    """The page's plots: of each block its title, the methods' names with their colours, and its panels."""
    groups = _blocks(trajectories(material.loaded, material))
    most = max(COLOURED, MOST // max(1, len(groups)))
    blocks = [_block(title, members[:most], len(members)) for title, members in groups]
    return [(block["title"], block["key"], block["panels"]) for block in blocks]


def _block(title: str, members: list[Trajectory], of: int) -> Row:
    """What the page shows of one model, data set and density: the most accurate ``of`` so many methods."""
    names, colours = _names(members), _colours(members)
    curves = [member.curve for member in members]
    drawn = list(zip(names, colours, curves, strict=True))
    return {
        "title": title,
        "left_out": of - len(members),
        "key": [(name, colour) for name, colour, _ in drawn if colour != REST],
        "others": colours.count(REST),
        "panels": [(panel, shown) for panel in PANELS if (shown := _plot(panel, drawn))],
        "rows": _ends(members),
        "layers": [(name, member.layers) for member, name in zip(members, names, strict=True)],
    }


def _names(members: Sequence[Trajectory]) -> list[str]:
    """The methods' names, with their settings where they would read the same."""
    methods = [member.row["method"] for member in members]
    return [
        f"{member.row['method']} ({member.row['setting']})"
        if methods.count(member.row["method"]) > 1
        else member.row["method"]
        for member in members
    ]


def _colours(members: Sequence[Trajectory]) -> list[str]:
    """CSS classes: the most accurate methods have a colour of their own."""
    own = iter([*(f"s{place}" for place in range(COLOURED)), *[REST] * len(members)])
    return ["control" if member.row["control"] else next(own) for member in members]


def _plot(panel: CurvePanel, drawn: Sequence[tuple[str, str, list[Row]]]) -> LinePlot | None:
    """A panel's lines, the most accurate on top; None where no method has the figure."""
    lines = [
        Line(name, colour, points, dashed=figure == panel.null)
        for name, colour, curve in reversed(drawn)
        for figure in (panel.null, panel.figure)
        if figure and not (figure == panel.null and colour == REST)
        if (points := tuple((row["epoch"], row[figure]) for row in curve if row[figure] is not None))
    ]
    return plot(lines, panel.level) if lines else None
