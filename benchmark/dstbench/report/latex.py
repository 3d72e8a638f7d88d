"""A board as a LaTeX table, for a paper: booktabs, a block for each model, data set and density.

Bold are the methods that nothing in the block is shown to be better than: the best mean, and every other that a
t-test paired by seed, Holm-corrected over the block, doesn't tell from it. Where no test can be made, for there are
fewer than three seeds, nothing is bold, and the caption says so. FLOPs need no test: the least are bold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import floor, log10
from typing import TYPE_CHECKING, Any

from dstbench.report.apart import apart
from dstbench.report.boards import Board
from dstbench.report.leaderboards import group_of, in_order, summarise, with_versions
from dstbench.report.scores import below_zero, rankings_of, shows
from dstbench.report.statistics import FEWEST, differences, holm, p_value
from dstbench.report.table_rows import rows_of
from dstbench.report.values import Column, is_missing, ranking_of_row
from dstbench.results.measure_table import MEASURES, RATIOS
from dstbench.results.ranking import Ranking

if TYPE_CHECKING:
    import pandas as pd

Row = dict[Any, Any]
Seeds = Mapping[str, Mapping[int, float]]  # a row's group -> seed -> its value

SIGNIFICANCE = 0.05
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("seeds", "density", "top1", "score", "difference", "training_flops_ratio", "inference_flops_ratio"),
    "flops": ("seeds", "density", "training_flops_ratio", "inference_flops_ratio", "hardware_flops_ratio", "top1",
              "score"),
    "throughput": ("seeds", "inference_throughput_ratio", "inference_path", "train_throughput_ratio", "train_path",
                   "top1", "score"),
}  # fmt: skip
_TITLES = {
    "seeds": r"$n$", "density": "density", "top1": r"top-1 (\%)", "score": "metric", "difference": r"$\Delta$ dense",
    "training_flops_ratio": "train FLOPs", "inference_flops_ratio": "infer FLOPs",
    "hardware_flops_ratio": "hardware FLOPs", "inference_throughput_ratio": "infer speed",
    "train_throughput_ratio": "train speed", "inference_path": "infer path", "train_path": "train path",
}  # fmt: skip
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "·": r"$\cdot$", "×": r"$\times$", "–": "--", "−": r"$-$", "±": r"$\pm$", "λ": r"$\lambda$", "ζ": r"$\zeta$",
    "μ": r"$\mu$", "Δ": r"$\Delta$",
}  # fmt: skip
"""What LaTeX would act on."""


def escaped(text: str) -> str:
    """A text that others wrote, as LaTeX shows it: no command comes of it, and no letter is lost silently.

    What neither ASCII nor Latin is goes by its code point, which any engine can print.
    """
    shown = "".join(
        _ESCAPES.get(character) or _letter(character) for character in re.sub("-(?=-)", "-\0", text)
    )
    return shown.replace(_NOTHING, "{}")  # two hyphens would become a dash


_NOTHING = r"\texttt{U+0000}"


def _letter(character: str) -> str:
    if character.isprintable() and ord(character) < 0x250:
        return character
    return " " if character.isspace() else rf"\texttt{{U+{ord(character):04X}}}"


def to_latex(trials: pd.DataFrame, board: Board) -> str:
    """A board of what ``load_results`` gives, our rows alone, as a ``table`` that needs the package booktabs."""
    rows: list[Row] = rows_of(in_order(summarise(trials))[board.name])
    metrics, titles = rankings_of(rows), {row["metric"] for row in rows}
    columns = [
        column for column in board.columns if column.key in COLUMNS[board.name] and shows(column.key, titles)
    ]
    columns.sort(key=lambda column: COLUMNS[board.name].index(column.key))
    seeds = _by_row(trials, board.by)
    tested: list[bool] = []
    lines = []
    for (model, dataset, density), members in groupby(rows, key=_place):
        block = list(members)
        bold = _bold(block, board, seeds)
        tested.append(bool(bold) or not any(_is_method(row, board) for row in block))
        title = f"{escaped(str(model))} on {escaped(str(dataset))}, density {density:g}"
        if shared := _shared(block):
            title += rf" {{\footnotesize ({escaped(shared)})}}"
            block = [{**row, "setting": _without(row["setting"], shared)} for row in block]
        lines += [r"\midrule", rf"\multicolumn{{{len(columns) + 1}}}{{@{{}}l}}{{\emph{{{title}}}}} \\"]
        lines += [_line(row, columns, place in bold, board) for place, row in enumerate(block)]
    numbers = "".join("r" if column.numeric else "l" for column in columns)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and, before LaTeX 2020, \usepackage{textcomp}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_caption(board, metrics, any(tested), all(tested))}}}",
            rf"\label{{tab:dstbench-{board.name}}}",
            rf"\begin{{tabular}}{{@{{}}l{numbers}@{{}}}}",
            r"\toprule",
            " & ".join(["method", *(_heading(column, metrics) for column in columns)]) + r" \\",
            *(lines or [r"\midrule", r"\multicolumn{1}{@{}l}{no results} \\"]),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _heading(column: Column, metrics: Sequence[Ranking]) -> str:
    """A column's title; that of the score is the metric, where all rows have the same, with its direction."""
    if column.key != "score" or len(metrics) > 1:
        return _TITLES[column.key]
    arrow = r"\downarrow" if metrics[0].sign < 0 else r"\uparrow"
    return rf"{escaped(metrics[0].title)} ${arrow}$"


def _place(row: Row) -> tuple[Any, ...]:
    return row["model"], row["dataset"], row["density_requested"]


def _shared(block: Sequence[Row]) -> str:
    """The settings that all rows of a block have: said once."""
    parts = [str(row["setting"] or "").split(", ") for row in block]
    return ", ".join(part for part in parts[0] if part and all(part in other for other in parts))


def _without(setting: Any, shared: str) -> str:
    return ", ".join(part for part in str(setting or "").split(", ") if part not in shared.split(", "))


def _caption(board: Board, metrics: Sequence[Ranking], tested: bool, everywhere: bool) -> str:
    test = rf"a $t$-test paired by seed (Holm, $\alpha={SIGNIFICANCE}$)"
    said = f"Bold: the best mean and what {test} can't tell from it"
    if _is_exact(board):
        said = "Bold: the least"
    elif not tested:
        said = f"Nothing is bold: with fewer than {FEWEST} seeds no difference can be told"
    elif not everywhere:
        said += f"; nothing in blocks of fewer than {FEWEST} seeds"
    about = f"{escaped(board.summary(metrics))}{_differences(board, metrics)}"
    return rf"{about} $\pm$: 95\,\% $t$-interval over $n$ seeds. {said}."


def _differences(board: Board, metrics: Sequence[Ranking]) -> str:
    """What the sign of a difference means, where it isn't what most readers take it for."""
    said = below_zero(metrics)
    return escaped(f" Δ dense: {said}.") if said and "difference" in COLUMNS[board.name] else ""


def _line(row: Row, columns: Sequence[Column], bold: bool, board: Board) -> str:
    name = escaped(row["method"])
    if setting := row.get("setting"):
        name += rf" {{\footnotesize ({escaped(str(setting))})}}"
    cells = [rf"\textit{{{name}}}" if row["control"] else name]
    for column in columns:
        text = _cell(row, column)
        cells.append(rf"\textbf{{\boldmath {text}}}" if bold and _leads(column, row, board) else text)
    return " & ".join(cells) + r" \\"


def _leads(column: Column, row: Row, board: Board) -> bool:
    """Whether a column is the one that the row is ranked by."""
    return column.key == (ranking_of_row(row).key if board.by_metric else board.by)


def _cell(row: Row, column: Column) -> str:
    """A figure with its interval, ``$93.20 \\pm 0.41$``; quartiles, which aren't symmetric, in brackets."""
    value = row[column.key]
    if is_missing(value):
        return "--"
    if not column.numeric:
        return escaped(str(value))
    if column.kind in RATIOS or column.kind in ("cost", "fraction"):
        text = f"{value:.3g}"
    elif column.kind in ("points", "score", "accuracy"):
        return _measured(row, column)
    else:
        text = f"{value:.0f}"
    if not column.interval or any(is_missing(row[key]) for key in column.keys[1:]):
        return f"${text}$"
    low, high = (row[key] for key in column.keys[1:])
    if column.kind in RATIOS:
        return rf"${text}\;[{low:.3g}, {high:.3g}]$"
    return rf"${text} \pm {high - value:.2f}$"


def _measured(row: Row, column: Column) -> str:
    """A metric or a difference of one, with as many decimals as its interval has where that isn't in per cent."""
    metric, value, high = ranking_of_row(row), row[column.key], row[column.keys[-1]]
    sign = "+" if column.kind == "points" else ""
    half = None if is_missing(high) or not high > value else high - value
    if metric.is_percent:
        text, spread = f"{value:{sign}.2f}", None if half is None else f"{half:.2f}"
    else:
        places = max(_decimals(value, 3 if sign else 4), 0 if half is None else _decimals(half, 2))
        text, spread = f"{value:{sign}.{places}f}", None if half is None else f"{half:.{places}f}"
    return f"${text}$" if spread is None else rf"${text} \pm {spread}$"


def _decimals(value: float, digits: int) -> int:
    """Behind the point, for so many significant digits."""
    return max(0, digits - 1 - floor(log10(abs(value)))) if value else 0


def _by_row(trials: pd.DataFrame, measure: str) -> Seeds:
    """Each row's values by seed; a row is known by its group."""
    values: dict[str, dict[int, float]] = {}
    for trial in with_versions(apart(rows_of(trials))):
        if trial["status"] == "ok" and not is_missing(trial.get(measure)):
            group = values.setdefault(group_of(trial), {})
            group.setdefault(trial["seed"], trial[measure])
    return values


def _is_method(row: Row, board: Board) -> bool:
    return is_missing(row["control"]) and not is_missing(row[board.by])


def _is_exact(board: Board) -> bool:
    """Whether what a board is ranked by is counted, not measured."""
    return MEASURES[board.by].kind == "cost"


def _bold(block: Sequence[Row], board: Board, seeds: Seeds) -> set[int]:
    """The places of the rows that nothing in their block is shown to be better than. Controls take no part."""
    if _is_exact(board):
        costs = {place: f"{row[board.by]:.3g}" for place, row in enumerate(block) if board.ranks(row)}
        return {place for place, cost in costs.items() if cost == min(costs.values(), key=float)}
    known = [
        place
        for place, row in enumerate(block)
        if board.ranks(row) and not is_missing(row[board.by]) and len(seeds.get(row["group"], {})) >= FEWEST
    ]
    if not known:
        return set()
    best = max(known, key=lambda place: board.gain(block[place]))
    others = [place for place in known if place != best]
    mine = seeds[block[best]["group"]]
    p = holm([p_value(differences(mine, seeds[block[place]["group"]])) for place in others])
    return {
        best,
        *(place for place, value in zip(others, p, strict=True) if value is None or value >= SIGNIFICANCE),
    }
