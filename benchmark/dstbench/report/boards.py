"""The three leaderboards: what each shows, what it is ranked by, and which rows its ranks say something about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dstbench.report.columns import COLUMNS
from dstbench.report.scores import OF_TEXTS, below_zero, capital, gain, joined, keeps, shows
from dstbench.report.statistics import EVIDENCE
from dstbench.report.values import Column, is_missing, ranking_of_row
from dstbench.results.measure_table import MEASURES
from dstbench.results.ranking import TOP1, Ranking
from dstbench.results.table import TUNING_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[Any, Any]

_FIRST = (
    "rank", "method", "control", "init", "structure", "prune", "grow", "schedule",
    "model", "dataset", "density_requested", "density", "setting", "seeds", *TUNING_COLUMNS,
)  # fmt: skip
_LAST = ("tier", "statuses", "reason", "note")


NOISE = "synthetic"  # the data set of random inputs


def is_about_speed(dataset: str) -> bool:
    """Whether a data set is noise, made to be timed on: what is learnt of it means nothing."""
    return dataset.partition("(")[0] == NOISE


CLOSE = 1.0  # points of a metric in per cent, or percent of another, behind dense that count as as good


def is_close(row: Row) -> bool:
    """Whether a row is as good as dense; without a dense control none is."""
    difference: float | None = row.get("difference")
    if difference is None or is_missing(difference):
        return False
    return keeps(row, difference * ranking_of_row(row).sign, CLOSE)


def may_gain(path: Any) -> bool:
    """Whether a network timed on this execution path can differ from dense by more than timing noise."""
    return not is_missing(path) and {"dense", "masked-dense"}.isdisjoint(str(path).split("; "))


def _has_evidence(row: Row) -> bool:
    """The order of single seeds is chance."""
    return bool(row["seeds"] >= EVIDENCE)


def _is_noise(row: Row) -> bool:
    """Whether a measured speed comes from other work, or from two equal networks."""
    return row["contended"] is True or (is_missing(row["control"]) and not may_gain(row["inference_path"]))


def _is_comparable(row: Row) -> bool:
    """Whether all timings are calm and were made under the same conditions."""
    return not (_is_noise(row) or "; " in str(row["conditions"]))


def titled(column: Column, metrics: Sequence[Ranking]) -> Column:
    """A column in the words of what its table's rows are ranked by. A metric that all share is the title of its
    column, and needs none of its own."""
    alone = metrics[0] if len(metrics) == 1 and metrics[0] is not TOP1 else None
    if column.key == "difference":
        return replace(column, help=f"{column.help} {_said_of_differences(metrics)}")
    if alone is None:
        return column
    if column.key in ("metric", "better"):
        return replace(column, extra=True)
    if column.key == "score":
        return replace(column, title=alone.title, help=f"{capital(alone.direction)}. {column.help}")
    return replace(column, title=f"validation {alone.name}") if column.key == "score_validation" else column


def _said_of_differences(metrics: Sequence[Ranking]) -> str:
    """``In percent points.``, ``In nats per token: below 0 is better.``"""
    units = joined([metric.unit_of_differences for metric in metrics], "or")
    return f"In {': '.join(filter(None, (units, below_zero(metrics))))}."


@dataclass(frozen=True)
class Board:
    """One leaderboard. Its file and its name in commands are ``name``, whatever its rows are ranked by."""

    name: str
    heading: str  # "" where it is called what its rows are ranked by
    about: str
    by: str  # the measure that it is ranked by
    leads: tuple[str, ...]  # what it is about: these columns come first, in this order
    says_something: Callable[[Row], bool] = lambda _: True  # whether a row's place among others does
    is_noise: Callable[[Row], bool] = lambda _: False  # such rows stand behind the others
    drawing: str = ""  # the template of what stands above its table on the page

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns, in order: what the row is, the leads, other measures as their table has them, the end."""
        others = (key for key, row in MEASURES.items() if self.name in row.boards)
        return tuple(COLUMNS[key] for key in dict.fromkeys((*_FIRST, *self.leads, *others, *_LAST)))

    def shown(self, table: pd.DataFrame) -> tuple[Column, ...]:
        """The columns that a table of it has: how far rows were verified only where that was asked, and of metrics
        those by which some row is ranked."""
        metrics = set(table["metric"]) if "metric" in table else set()
        empty = {key for key in OF_TEXTS if key in table and table[key].isna().all()}
        return tuple(
            column
            for column in self.columns
            if column.key in table and column.key not in empty and shows(column.key, metrics)
        )

    def title(self, metrics: Sequence[Ranking]) -> str:
        """What people call it: ``FLOPs``, ``Accuracy``, ``Loss``."""
        return self.heading or capital(joined([metric.word for metric in metrics]))

    def summary(self, metrics: Sequence[Ranking]) -> str:
        """What it says, in a sentence or two."""
        if not self.by_metric:
            return self.about
        if metrics == [TOP1]:
            return f"Top-1 {self.about}"
        said = "; ".join(f"{metric.title}, {metric.direction}" for metric in metrics)
        return f"{capital(said) if len(metrics) == 1 else f'Each by its own metric ({said})'}, {self.about}"

    @property
    def by_metric(self) -> bool:
        """Whether it is ranked by each row's own metric."""
        return self.by == "score"

    def gain(self, row: Row) -> float:
        """What it is ranked by, turned so that more is better."""
        return gain(row) if self.by_metric else float(row[self.by]) * self._sign

    @property
    def _sign(self) -> int:
        return 1 if MEASURES[self.by].better == "higher" else -1

    def ranks(self, row: Row) -> bool:
        """Whether a row has a rank here: methods with a value do, where it says something."""
        return is_missing(row["control"]) and not is_missing(row[self.by]) and self.says_something(row)


BOARDS = (
    Board(
        "accuracy", "",
        "on the test split after the final epoch: mean over seeds with its 95 % interval, beside what it costs.",
        "score", ("top1", "score", "difference", "p_holm"), says_something=_has_evidence,
    ),
    Board(
        "flops", "FLOPs",
        "Theoretical cost against dense. Theory, not time: what is really faster is on the throughput board.",
        "training_flops_ratio",
        ("training_flops_ratio", "inference_flops_ratio", "hardware_flops_ratio", "pareto", "top1", "score",
         "difference"),
    ),
    Board(
        "throughput", "Throughput",
        "Speed-ups against dense: in theory, what dense kernels can skip once removable channels are gone, and as "
        "measured, side by side in one process.",
        "inference_throughput_ratio",
        ("inference_theory", "inference_hardware", "inference_throughput_ratio", "inference_path",
         "single_throughput_ratio", "single_latency_median", "single_path", "inference_images_per_second",
         "train_theory", "train_hardware", "train_throughput_ratio", "train_path", "train_images_per_second",
         "conditions", "contended", "top1", "score", "difference"),
        says_something=_is_comparable, is_noise=_is_noise, drawing="speedup.svg.j2",
    ),
)  # fmt: skip
