"""Effects and groups as sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dstbench.report.axes import Axis, Ticks, round_numbers
from dstbench.report.evidence.effects import Effect, Effects, effects_of
from dstbench.report.evidence.experiment import experiments
from dstbench.report.evidence.groups import Against, Groups, against, groups_of
from dstbench.report.evidence.heat import Panel, full, panels, span
from dstbench.report.evidence.show import (
    against_table,
    difference,
    effects_markdown,
    groups_markdown,
    interval,
    pair_table,
    title_of,
    variance_table,
)
from dstbench.report.evidence.words import effect_sentences, group_sentences, mean_of, mean_text, unit_of
from dstbench.report.jinja import part, templates
from dstbench.report.section import Material, Section
from dstbench.report.values import MISSING
from dstbench.results.ranking import Ranking

PALE, DEEP = 6, 46  # per cent of colour in a heat map's lowest and highest cell: text stays legible on both


def effects_section(material: Material) -> Section | None:
    """Which choice matters; None where choices weren't crossed."""
    effects = effects_of(experiments(material.tried()))
    if not effects:
        return None
    html = (
        templates()
        .get_template("evidence/effects.html.j2")
        .render(effects=[_effects(one, effects) for one in effects])
    )
    return Section(
        "effects",
        "Which choice matters",
        Markup(html),
        style=part("evidence/effects.css"),
        markdown=effects_markdown(effects),
    )


def _effects(one: Effects, effects: Sequence[Effects]) -> dict[str, Any]:
    (low, high), metric = span(one), one.experiment.metric
    whole = full(one)
    scale = max((abs(x) for effect in one.main.effects for x in _ends(effect)), default=1.0) or 1.0
    return {
        "title": title_of(one, effects) if len(effects) > 1 else "",
        "sentences": effect_sentences(one),
        "main": [_main(effect, scale, one.blocks, metric) for effect in one.main.effects],
        "tables": [table for table in (pair_table(one), variance_table(one)) if table[1]] if one.used else [],
        "low": mean_text(low, metric),
        "high": mean_text(high, metric),
        "unit": f"{metric.name} {unit_of(metric)}" if metric.is_percent else unit_of(metric),
        "mean": mean_of(metric),
        "whole": whole,
        "panels": [_panel(panel, whole, low, high, metric) for panel in panels(one)],
    }


def _panel(panel: Panel, whole: int, low: float, high: float, metric: Ranking) -> dict[str, Any]:
    rows = [
        (level, [_heat(mean.gain, mean.n, whole, low, high, metric) for mean in means])
        for level, means in panel.rows
    ]
    return {"title": panel.title, "down": panel.down.kind, "across": panel.across, "rows": rows}


def _ends(effect: Effect) -> tuple[float, ...]:
    return tuple(x for x in (effect.mean, effect.low, effect.high) if x is not None)


def _main(effect: Effect, scale: float, blocks: int, metric: Ranking) -> dict[str, Any]:
    """One level: its effect in words, and where it lies in a plot from −scale to scale, in per cent of its width."""
    low, high = (x if x is not None else effect.mean for x in (effect.low, effect.high))
    return {
        "kind": effect.term,
        "level": effect.levels[0],
        "effect": difference(effect.mean, metric),
        "interval": interval(effect.low, effect.high, metric),
        "told": effect.told,
        "at": round(50 + 48 * effect.mean / scale, 2),
        "left": round(50 + 48 * low / scale, 2),
        "width": round(48 * (high - low) / scale, 2),
        "alike": f"{effect.alike} of {blocks}" if blocks > 1 else "",
    }


def _heat(gain: float | None, n: int, whole: int, low: float, high: float, metric: Ranking) -> dict[str, Any]:
    if gain is None:
        return {"text": MISSING, "colour": None, "n": "never tried, or never finished"}
    share = (gain - low) / (high - low) if high > low else 0.5
    return {
        "text": mean_text(gain, metric),
        "colour": round(PALE + share * (DEEP - PALE), 1),
        "n": "" if n == whole else f"{n} of {whole}",
    }


@dataclass(frozen=True)
class Layout:
    """Where things of a critical-difference diagram stand, in pixels."""

    name: str
    line: int  # of one method
    axis: tuple[int, int]  # the ranks
    label: int  # from the middle of a line to the foot of its name
    most: int  # characters of a name


WIDE = Layout("wide", 24, (410, 620), 4, 58)
NARROW = Layout("narrow", 42, (4, 286), -9, 46)  # names above their ranks
TOP, BAR = 44, 16


@dataclass(frozen=True)
class Line:
    """A method of the diagram; ``x`` is where its rank lies, None without one."""

    name: str
    short: str
    rank: str
    x: float | None
    y: float


@dataclass(frozen=True)
class Diagram:
    """The critical-difference diagram: a line a method, best first, its rank on an axis, and bars."""

    layout: Layout
    lines: tuple[Line, ...]
    ticks: Ticks
    bars: tuple[tuple[float, tuple[float, ...]], ...]  # x, and y of each method that it joins
    width: int
    height: int


def _clipped(name: str, most: int) -> str:
    """At most so many characters, the middle left out: methods differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2].rstrip()}…{name[-(most // 2 - 1) :].lstrip()}"


def diagram(groups: Groups, layout: Layout) -> Diagram:
    """Lay the best methods of a group out."""
    shown = groups.methods[: groups.shown]
    ranks = [method.rank for method in shown if method.rank is not None]
    axis = Axis(min(ranks, default=1) - 0.2, max(ranks, default=1) + 0.2, *layout.axis)
    ys = [TOP + layout.line * (place + 0.5) - min(layout.label, 0) for place in range(len(shown))]
    lines = tuple(
        Line(
            method.name,
            _clipped(method.name, layout.most),
            "not ranked" if method.rank is None else f"{method.rank:.2f}",
            None if method.rank is None else axis.at(method.rank),
            y,
        )
        for method, y in zip(shown, ys, strict=True)
    )
    right = layout.axis[1] + BAR + 8
    bars = tuple(
        (float(right + BAR * p), tuple(ys[member] for member in bar)) for p, bar in enumerate(groups.bars)
    )
    height = TOP + layout.line * len(shown) + 12
    ticks = axis.ticks(round_numbers(axis.low, axis.high, most=5))
    return Diagram(layout, lines, ticks, bars, right + BAR * max(len(bars), 1), height)


def groups_section(material: Material) -> Section | None:
    """Which methods differ; None where no two can be compared."""
    groups = groups_of(material.tried(by_name=True))
    if not groups:
        return None
    shown = [_groups(one) for one in groups]
    html = templates().get_template("evidence/groups.html.j2").render(groups=shown)
    return Section(
        "groups",
        "Which methods differ",
        Markup(html),
        data=[one["against"] for one in shown],
        script=part("evidence/groups.js"),
        style=part("evidence/groups.css"),
        markdown=groups_markdown(groups),
    )


def _groups(one: Groups) -> dict[str, Any]:
    controls = [method.name for method in one.tried if method.control and method.gains]
    baselines = [*controls, *(method.name for method in one.methods[: one.shown])]
    tables = {name: _against_rows(one, against(one, name, one.shown)) for name in baselines}
    first = one.methods[0].name
    titles, rows = against_table((), one.metric)[0], tables[first]
    return {
        "title": "; ".join(map(str, one.blocks)),
        "sentences": group_sentences(one),
        "diagrams": [diagram(one, WIDE), diagram(one, NARROW)],
        "more_bars": one.more_bars,
        "more": len(one.methods) - one.shown,
        "baselines": baselines,
        "first": first,
        "best": f"the {'lowest' if one.metric.sign < 0 else 'highest'} {one.metric.name}",
        "unit": f"In {unit_of(one.metric)}",
        "titles": titles,
        "rows": rows,
        "against": tables,
    }


def _against_rows(one: Groups, rows: Sequence[Against]) -> list[list[str]]:
    """The shown methods' differences, in words."""
    names = {method.name for method in one.methods[: one.shown]}
    return [list(row) for row in against_table([row for row in rows if row.name in names], one.metric)[1]]
