"""Effects and groups for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstbench.report.evidence.effects import Effect, Effects
from dstbench.report.evidence.groups import Against, Groups
from dstbench.report.evidence.heat import Panel, full, panels
from dstbench.report.evidence.words import (
    Sentence,
    effect_sentences,
    ends_in_its_sense,
    group_sentences,
    in_its_sense,
    mean_of,
    mean_text,
    unit_of,
)
from dstbench.report.markdown import harmless, line
from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.values import MISSING, kind_of_differences, show
from dstbench.results.ranking import Ranking

if TYPE_CHECKING:
    from rich.console import RenderableType

NO_EXPERIMENT = (
    "No factorial experiment here: at least two of init, structure, prune, grow and schedule have to be crossed, all "
    "else the same."
)
NO_GROUPS = "Nothing to compare here: no two methods have a result on the same model, data set and density."
TOGETHER = "[low, high] hold together with 95 %."
VARIANCE = (
    "Analysis of variance: type II, repetitions taken out. Its F and p take trials as independent and equally noisy; "
    "the intervals don't"
)

Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]  # titles and rows, the first column being names


def title_of(effects: Effects, others: Sequence[Effects]) -> str:
    """Which experiment, where there are several."""
    return f"Effects ({effects.experiment.setting or 'as set'})" if len(others) > 1 else "Effects"


def variance_table(effects: Effects) -> Table:
    """The analysis of variance."""
    metric = effects.experiment.metric
    rows = [
        (
            part.term, _squares(part.squares, metric), str(part.freedom), f"{100 * part.share:.1f} %",
            MISSING if part.f is None else f"{part.f:.1f}", show("p", part.p),
        )
        for part in effects.variance
    ]  # fmt: skip
    return ("choice", "sum of squares", "df", "share", "F", "p"), rows


def _squares(value: float, metric: Ranking) -> str:
    return f"{value:,.1f}" if metric.is_percent else f"{value:.4g}"


def main_table(effects: Effects) -> Table:
    """The main effects."""
    several = effects.blocks > 1
    rows = [
        (
            f"{effect.term} {effect.levels[0]}",
            *_figures(effect, effects.experiment.metric),
            *([f"{effect.alike} of {effects.blocks}"] if several else []),
        )
        for effect in effects.main.effects
    ]
    return ("level", "effect", "[low, high]", *(["same sign in blocks"] if several else [])), rows


def pair_table(effects: Effects) -> Table:
    """The interactions that are told from none, the largest first."""
    told = sorted((e for e in effects.interactions.effects if e.told), key=lambda e: -abs(e.mean))
    rows = [(_pair(effect), *_figures(effect, effects.experiment.metric)) for effect in told]
    return ("interaction", "effect", "[low, high]"), rows


def _pair(effect: Effect) -> str:
    return ", ".join(
        f"{kind} {level}" for kind, level in zip(effect.term.split(" × "), effect.levels, strict=True)
    )


def _figures(effect: Effect, metric: Ranking) -> tuple[str, str]:
    return difference(effect.mean, metric), interval(effect.low, effect.high, metric)


def difference(gain: float | None, metric: Ranking) -> str:
    """A difference of gains as the metric has it: ``−0.67`` points, or in its own unit."""
    return show(kind_of_differences(metric), in_its_sense(gain, metric))


def interval(low: float | None, high: float | None, metric: Ranking) -> str:
    """``[−0.67, 11.35]``, or a dash; of the ends of an interval of gains."""
    ends = [show(kind_of_differences(metric), end) for end in ends_in_its_sense(low, high, metric)]
    return MISSING if MISSING in ends else f"[{', '.join(ends)}]"


def panel_table(panel: Panel, whole: int, metric: Ranking) -> Table:
    """One heat map; combinations with fewer repetitions than others say how many they have."""
    rows = [
        (f"{panel.down.kind} {level}", *(_mean(mean.gain, mean.n, whole, metric) for mean in means))
        for level, means in panel.rows
    ]
    return (panel.title, *(f"{panel.across.kind} {level}" for level in panel.across.levels)), rows


def _mean(gain: float | None, n: int, whole: int, metric: Ranking) -> str:
    if gain is None:
        return MISSING
    return mean_text(gain, metric) if n == whole else f"{mean_text(gain, metric)} (n = {n})"


def ranks_table(groups: Groups) -> Table:
    """The best methods, with the bars of each as letters: two that share one can't be told apart."""
    rows = []
    for place, method in enumerate(groups.methods[: groups.shown]):
        letters = " ".join(letter(bar) for bar, members in enumerate(groups.bars) if place in members)
        rank = MISSING if method.rank is None else f"{method.rank:.2f}"
        rows.append(
            (method.name, rank, mean_text(method.gain, groups.metric), str(method.n), letters or MISSING)
        )
    return ("method", "mean rank", groups.metric.title, "n", "can't be told apart"), rows


def letter(bar: int) -> str:
    """a … z, aa …"""
    return chr(ord("a") + bar % 26) * (1 + bar // 26)


def against_table(rows: Sequence[Against], metric: Ranking) -> Table:
    """Differences to a baseline."""
    listed = [
        (
            row.name,
            str(row.n),
            difference(row.difference, metric),
            interval(row.low, row.high, metric),
            show("p", row.p_holm),
            row.verdict,
        )
        for row in rows
    ]
    return ("method", "n", "difference", "[low, high]", "p (Holm)", "verdict"), listed


def render_effects(effects: Sequence[Effects]) -> RenderableType:
    """For a terminal of any width."""
    from rich.console import Group
    from rich.text import Text

    if not effects:
        return Text(NO_EXPERIMENT)
    parts: list[RenderableType] = []
    for one in effects:
        parts += [Text(title_of(one, effects), style="bold"), "", *_lines(effect_sentences(one))]
        if one.used:
            parts += [
                "",
                Text(f"Main effects, {unit_of(one.experiment.metric)}. {TOGETHER}", style="dim"),
                _sheet(main_table(one)),
            ]
            if pair_table(one)[1]:
                parts += [
                    "",
                    Text(f"Interactions that can be told from zero. {TOGETHER}", style="dim"),
                    _sheet(pair_table(one)),
                ]
            parts += ["", Text(f"{VARIANCE}.", style="dim"), _sheet(variance_table(one))]
        parts += ["", Text(f"Mean {mean_of(one.experiment.metric)}", style="dim")]
        for panel in panels(one):
            parts += [_sheet(panel_table(panel, full(one), one.experiment.metric)), ""]
    return Group(*parts)


def render_groups(
    groups: Sequence[Groups], rows: Sequence[Sequence[Against]], baseline: str | None
) -> RenderableType:
    """For a terminal of any width; ``rows`` are the differences to the baseline, for each of ``found``."""
    from rich.console import Group
    from rich.text import Text

    if not groups:
        return Text(NO_GROUPS)
    parts: list[RenderableType] = []
    for one, differences in zip(groups, rows, strict=True):
        parts += [
            Text("Groups", style="bold"),
            "",
            *_lines(group_sentences(one)),
            "",
            _sheet(ranks_table(one)),
            "",
        ]
        if baseline is not None:
            parts += [Text(f"Minus {baseline}, {unit_of(one.metric)}, paired by seed; {EACH}", style="dim")]
            parts += [_sheet(against_table(differences, one.metric)), ""]
    return Group(*parts)


EACH = "each [low, high] holds alone with 95 %, p is corrected for all (Holm)"


def _lines(sentences: Sequence[Sentence]) -> list[RenderableType]:
    from rich.text import Text

    return [Text.assemble((topic, "bold"), "  ", text) for topic, text in sentences]


def _sheet(table: Table) -> Sheet:
    titles, rows = table
    fields = tuple(Field(title) for title in titles[1:])
    return Sheet(fields, (tuple(Entry(row[0], row[1:]) for row in rows),), name=titles[0])


def effects_markdown(effects: Sequence[Effects]) -> str:
    """A part of a page; "" where there is no experiment."""
    parts: list[str] = []
    for one in effects:
        parts += [f"## {harmless(title_of(one, effects))}", "", *_bullets(effect_sentences(one)), ""]
        if one.used:
            parts += [
                f"Main effects in {harmless(unit_of(one.experiment.metric))}. {TOGETHER}",
                "",
                *_markdown(main_table(one)),
                "",
            ]
            if pair_table(one)[1]:
                parts += [
                    f"Interactions that can be told from zero. {TOGETHER}",
                    "",
                    *_markdown(pair_table(one)),
                    "",
                ]
            parts += [f"{VARIANCE}.", "", *_markdown(variance_table(one)), ""]
        parts += [harmless(f"Mean {mean_of(one.experiment.metric)}."), ""]
        for panel in panels(one):
            parts += [*_markdown(panel_table(panel, full(one), one.experiment.metric)), ""]
    return _page(parts)


def groups_markdown(
    groups: Sequence[Groups], rows: Sequence[Sequence[Against]] = (), baseline: str | None = None
) -> str:
    """A part of a page; "" where nothing can be compared."""
    parts: list[str] = []
    for place, one in enumerate(groups):
        parts += ["## Groups", "", *_bullets(group_sentences(one)), "", *_markdown(ranks_table(one)), ""]
        if baseline is not None:
            parts += [
                f"Minus {harmless(baseline)} in {harmless(unit_of(one.metric))}, paired by seed; {EACH}.",
                "",
            ]
            parts += [*_markdown(against_table(rows[place], one.metric)), ""]
    return _page(parts)


def _page(lines: Sequence[str]) -> str:
    """Lines as a file ends them."""
    return "\n".join(lines).rstrip("\n") + "\n" if lines else ""


def _bullets(sentences: Sequence[Sentence]) -> list[str]:
    return [f"- **{harmless(topic)}**: {harmless(text)}" for topic, text in sentences]


def _markdown(table: Table) -> list[str]:
    titles, rows = table
    return [
        line(map(harmless, titles)),
        line([":--", *["--:"] * (len(titles) - 1)]),
        *(line(map(harmless, row)) for row in rows),
    ]
