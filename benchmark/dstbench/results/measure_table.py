"""Every measure of a trial, one row each: the record's schema, the table of trials, the means over seeds, the
columns and the boards all follow from ``MEASURES``. A new measure is a row here, and where a trial computes it.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

from dstbench.results.ranking import ranking_of

Kind = Literal[
    "text", "integer", "rank", "percent", "accuracy", "score", "change", "points", "fraction", "ratio", "cost",
    "speed", "si", "bytes", "seconds", "p", "flag", "method", "trials", "note",
]  # fmt: skip
"""How a value is written, and what its cell looks like. ``cost`` and ``speed`` are ratios to dense: of FLOPs in
theory, of samples per second as measured."""
WORDS: tuple[Kind, ...] = ("text", "flag", "method", "trials", "note")
"""The kinds that aren't numbers."""
RATIOS: tuple[Kind, ...] = ("ratio", "cost", "speed")
LARGEST = 1e100
"""No figure of a training is larger: sums and inverses of what is smaller are numbers."""
_RANGES: Mapping[Kind, tuple[float, float]] = {
    **dict.fromkeys(("percent", "accuracy"), (0.0, 100.0)),
    "fraction": (0.0, 1.01),  # room for rounding
    "points": (-100.0, 100.0),
}
Aggregate = Literal["mean", "geometric", "interval", "union", "any"]
"""Over seeds: the mean, the geometric mean and the mean with their t-intervals, the different values, whether one is
true. The interval of a geometric mean is that of the logarithms, exponentiated."""


class RecordedSpeed(TypedDict, total=False):
    """One throughput measurement against dense, both timed side by side, each in the layout that suits it."""

    path: str  # execution path: "masked-dense", "compacted", …
    layout: str  # memory format of images and convolutions: "contiguous" or "channels_last"
    dense_layout: str
    images_per_second: float | None  # samples: tokens where a task counts those
    dense_images_per_second: float | None
    latency_median: float | None  # seconds of one call on one batch
    latency_low: float | None  # 10 % and 90 % quantiles over the timing rounds
    latency_high: float | None
    ratio: float | None  # > 1 = faster than dense
    ratio_low: float | None  # quartiles over the timing rounds
    ratio_high: float | None
    rounds: int  # timed: fewer than were asked for where the ratio was known well enough


class RecordedThroughput(TypedDict, total=False):
    """How fast the network really ran, and under which conditions."""

    path: str  # of all measurements, in records whose measurements don't say their own
    batch_size: int
    precision: str
    threads: int
    device: str
    compile: str | None  # torch.compile's mode
    versions: str
    rounds: int
    contended: bool  # something else ran at the same time: shown, not ranked
    train: RecordedSpeed | None
    inference: RecordedSpeed | None
    single: RecordedSpeed | None  # inference of one input


class LayerFigures(TypedDict, total=False):
    """What is known of a layer beyond its size."""

    allocation: int | None  # weights, before a structure rounded them to units
    r_s: float | None
    never_dropped: float | None
    removed: int | None  # output rows that a structure took away for good
    channels: dict[str, float | None] | None


class RecordedLayer(LayerFigures):
    """One layer with a mask, at the end."""

    name: str
    shape: list[int]  # of its weight
    active: int  # weights


class RecordedMetric(TypedDict):
    """What a trial is ranked by, where that isn't top-1."""

    key: str
    title: str
    better: Literal["higher", "lower"]


class RecordedCourse(TypedDict, total=False):
    """A few points of a training, each figure a list over them."""

    step: list[int]  # 0 before the first
    loss: list[float | None]  # of the step's last batch
    masks: list[str | None]  # sha256, hex, of all masks after the step


TIMED = ("train", "inference", "single")
"""What is timed of a trial: a training step, inference of a batch, and inference of one input."""
CONDITIONS = ("device", "threads", "batch_size", "precision", "compile")


@dataclass(frozen=True)
class MeasureRow:
    """One measure; without a title it has no column on the boards."""

    key: str
    kind: Kind
    title: str = ""
    help: str = ""
    type: Any = float  # in the record, where None is legal, too; None: it has no field of its own there
    read: Callable[[Mapping[str, Any]], Any] | None = None  # from the measures; None: its field
    framed: bool = True  # a column of the table of trials
    over_seeds: Aggregate = "mean"
    inverse_of: str = ""  # 1 / the mean of this measure over seeds
    timed: bool = False  # undisturbed timings alone go into it where there are any
    boards: tuple[str, ...] = ()
    extra: bool = False  # starts hidden on the page
    rare: bool = False  # has a column only where some row says it
    interval: bool = False  # <key>_low and <key>_high belong to it
    better: Literal["higher", "lower", ""] = ""  # the direction of a board that is ranked by it
    within: tuple[float, float] | None = None  # what it can be in a record, where its kind doesn't say

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that it can be: a record with another value is refused."""
        return self.within or _RANGES.get(self.kind, (0.0, LARGEST))

    def value(self, measures: Mapping[str, Any]) -> Any:
        """What a record's measures say, None where they don't."""
        return self.read(measures) if self.read else measures.get(self.key)


def _metric(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """One of the figures of a task other than classification."""

    def read(measures: Mapping[str, Any]) -> float | None:
        value: float | None = (measures.get("metrics") or {}).get(key)
        return value

    return read


def _speed(
    timed: str, field: str, kind: Kind = "speed", title: str = "", help: str = "", **more: Any
) -> MeasureRow:
    """A figure of one measurement of throughput."""

    def read(measures: Mapping[str, Any]) -> Any:
        return _measurement(measures, timed).get(field)

    key = f"{timed}_{field.replace('ratio', 'throughput_ratio')}"
    return MeasureRow(key, kind, title, help, type=None, read=read, timed=True, **more)


def _speed_up(key: str, of: str, title: str, help: str) -> MeasureRow:
    """Dense over sparse, of a measure that is sparse over dense."""
    return MeasureRow(key, "ratio", title, help, type=None, framed=False, inverse_of=of, boards=_THROUGHPUT)


def _path(timed: str, title: str, help: str, **more: Any) -> MeasureRow:
    """The execution path of one measurement; records of before say one for all."""

    def read(measures: Mapping[str, Any]) -> str | None:
        speed, whole = _measurement(measures, timed), measures.get("throughput") or {}
        return speed.get("path", speed and whole.get("path")) or None

    return MeasureRow(
        f"{timed}_path", "text", title, help, type=None, read=read, timed=True, over_seeds="union", **more
    )


def _of_all_parameters(measures: Mapping[str, Any]) -> float | None:
    """Of transformers alone, whose embeddings may be most of them; of others it is nearly the density."""
    active, parameters = measures.get("active_parameters"), measures.get("parameters")
    if measures.get("convention") != "mac-attention" or not active or not parameters:
        return None
    return float(active / parameters)


def _measurement(measures: Mapping[str, Any], timed: str) -> Mapping[str, Any]:
    return (measures.get("throughput") or {}).get(timed) or {}


def _conditions(measures: Mapping[str, Any]) -> str | None:
    """Such as ``device cpu, threads 2``."""
    speeds = measures.get("throughput") or {}
    return ", ".join(f"{name} {speeds[name]}" for name in CONDITIONS if speeds.get(name) is not None) or None


def _excess(percent: int) -> Callable[[Mapping[str, Any]], float | None]:
    """The fraction of channels below a share of their layer's mean density, less what chance gives."""

    def read(measures: Mapping[str, Any]) -> float | None:
        pooled = measures.get("channels") or {}
        below, chance = pooled.get(f"below_{percent}"), pooled.get(f"null_{percent}")
        return None if below is None or chance is None else below - chance

    return read


_ACCURACY, _FLOPS, _THROUGHPUT = ("accuracy",), ("flops",), ("throughput",)
_THEORY = (*_ACCURACY, *_FLOPS)
_ALL = (*_THEORY, *_THROUGHPUT)
_ROUNDS = "brackets are quartiles over timing rounds."
_EXECUTED = "How the sparse network was executed when its"
_AT_MOST_DENSE = "masked-dense computes every zero: 1× is the most it can reach."
_REMAINS = "dense FLOPs over those of the network that remains after compaction."

# In the order in which boards show them. FLOPs are totals, ``*_ratio`` are against dense. Counts are floats in
# the record: a whole number that comes as 12.0 is no reason to refuse it.
_ROWS = (
    # accuracy
    MeasureRow("top1", "accuracy", "top-1 %", "Test accuracy of the final epoch in percent: mean over seeds, with "
               "its 95 % t-interval from two seeds on. Nothing is selected on test data.",
               over_seeds="interval", interval=True, better="higher", boards=_ALL),
    # of tasks other than classification; a record without ``metric`` is ranked by top-1
    MeasureRow("task", "text", type=str, framed=False),
    MeasureRow("score", "score", "score", "The task's own metric over the whole test split after the final epoch: "
               "mean over seeds, with its 95 % t-interval from two seeds on. Nothing is selected on test data.",
               read=lambda m: m.get("score", m.get("top1")), within=(-LARGEST, LARGEST), over_seeds="interval",
               interval=True, better="higher", boards=_ALL),
    MeasureRow("metric", "text", "metric", "What is ranked by; blocks of different metrics share no ranking.",
               type=RecordedMetric, read=lambda m: ranking_of(m).title if m else None, over_seeds="union",
               boards=_ALL),
    MeasureRow("better", "text", "better", "Which way the metric is better.", type=None,
               read=lambda m: ranking_of(m).better if m else None, over_seeds="union", boards=_ALL),
    MeasureRow("score_validation", "score", "validation", "The metric on the validation split after the final epoch.",
               within=(-LARGEST, LARGEST), read=lambda m: m.get("score_validation", m.get("top1_validation")),
               extra=True, boards=_ACCURACY),
    MeasureRow("perplexity", "score", "perplexity",
               "e to the mean loss per token: mean and interval are those of the losses, exponentiated.", type=None,
               read=_metric("perplexity"), over_seeds="geometric", interval=True, boards=_ACCURACY),
    MeasureRow("bits_per_character", "score", "bits/char", "Bits that a character of the test split takes.",
               type=None, read=_metric("bits_per_character"), boards=_ACCURACY),
    MeasureRow("metrics", "text", type=dict[str, float], within=(-LARGEST, LARGEST), framed=False),
    MeasureRow("top1_validation", "percent", "validation %", "Validation accuracy of the final epoch in percent.",
               extra=True, boards=_ACCURACY),
    MeasureRow("loss", "fraction", "loss", "Mean cross-entropy of the final epoch on the test split.",
               read=lambda m: m.get("loss", _metric("loss")(m)), within=(0.0, LARGEST), extra=True, boards=_ACCURACY),
    # sparsity and exploration
    MeasureRow("density_requested", "fraction", framed=False),  # in the table of trials it is the trial's own
    MeasureRow("density", "fraction", "measured", "Measured share of active weights, from the masks at the end.",
               boards=_ALL),  # of the maskable layers in the budget
    MeasureRow("density_all", "fraction"),  # over all conv and linear weights
    MeasureRow("density_parameters", "fraction", "of all parameters",
               "Active share of all parameters, embeddings, a head that is tied to one, norms and biases included.",
               type=None, read=_of_all_parameters, rare=True, boards=_THEORY),
    MeasureRow("backward_density", "fraction", "backward density",
               "Share of weights that train, active or not, where a superset of the active ones does.",
               extra=True, rare=True, boards=_THEORY),
    MeasureRow("layers", "text", type=list[RecordedLayer], framed=False),
    MeasureRow("r_s", "fraction", "R_s", "In-time over-parameterisation: share of weights that were ever active.",
               boards=_THEORY),
    MeasureRow("never_dropped", "fraction", "never dropped",
               "Share of the initially active weights that every topology since has held.",
               extra=True, boards=_ACCURACY),
    # core.network.channel_statistics.ChannelStatistics, pooled over layers, at the end
    MeasureRow("channels", "text", type=dict[str, float], framed=False),
    MeasureRow("channel_excess_80", "fraction", "sparse channels (0.8)",
               "Share of channels with a density below 0.8 times their layer's mean, minus what chance gives:"
               " Binomial(fan-in, density). 0: as even as a random mask.",
               type=None, read=_excess(80), extra=True, boards=_ACCURACY),
    MeasureRow("channel_excess_50", "fraction", "sparse channels (0.5)",
               "The same with densities below half of their layer's mean.",
               type=None, read=_excess(50), extra=True, boards=_ACCURACY),
    MeasureRow("channel_gini", "fraction", "channel Gini",
               "Gini coefficient of the channels' densities within a layer; 0: all channels are equally dense.",
               type=None, read=lambda m: (m.get("channels") or {}).get("gini"), extra=True, boards=_ACCURACY),
    MeasureRow("channel_dead", "fraction", "dead channels", "Share of channels without a weight.",
               type=None, read=lambda m: (m.get("channels") or {}).get("dead"), extra=True, boards=_ACCURACY),
    MeasureRow("live_channels", "fraction", "live channels",
               "Share of hidden channels, of neurons, with a weight on both sides (CHTs' ANP).",
               extra=True, boards=_ACCURACY),
    MeasureRow("bottom_early", "fraction", "bottom set early",
               "Share of the final bottom set (each layer's 30 % of channels with the least mean |w|) that was in"
               " it after a quarter of the training. Chance: 0.3.", extra=True, boards=_ACCURACY),
    # over epochs, the first before training
    MeasureRow("exploration", "text", type=dict[str, list[float | None]], framed=False),
    # what retraining the beginning has to give again: see runner.trial.course
    MeasureRow("course", "text", type=RecordedCourse, within=(-LARGEST, LARGEST), framed=False),
    MeasureRow("updates", "integer", "updates", "Topology updates in one training run.", extra=True, boards=_THEORY),
    MeasureRow("churn", "fraction", "churn", "Mean share of active weights that one update replaces.",
               within=(0.0, LARGEST), extra=True, boards=_THEORY),
    MeasureRow("changed", "integer"),
    MeasureRow("channels_removed", "integer"),  # output rows that a structure took away for good
    MeasureRow("collapsed", "integer", "collapsed", "Layers that lost all their weights.",
               extra=True, boards=_ACCURACY),
    MeasureRow("fallbacks", "text", type=list[str], over_seeds="union",
               read=lambda m: ", ".join(m.get("fallbacks") or ()) or None),
    MeasureRow("unscored", "text", type=list[str], over_seeds="union",  # layers that a score couldn't rank
               read=lambda m: ", ".join(m.get("unscored") or ()) or None),
    # theoretical cost against dense, and measured speed beside it
    MeasureRow("training_flops_ratio", "cost", "train FLOPs",
               "Theoretical training FLOPs against dense, integrated over the real mask trajectory, "
               "dense gradients for growth included.", better="lower", boards=_THEORY),
    _speed("train", "ratio", "speed", "train speed",
           f"Measured training throughput against dense, timed side by side in one process; {_ROUNDS} It times the "
           "steps between topology updates: an update itself is not in it. Above 1 is faster than dense.",
           interval=True, boards=_ACCURACY + _THROUGHPUT),
    MeasureRow("inference_flops_ratio", "cost", "infer FLOPs",
               "Theoretical FLOPs of one inference against dense.", boards=_THEORY),
    _speed("inference", "ratio", "speed", "infer speed",
           "Measured inference throughput against dense, timed side by side in one process; "
           f"{_ROUNDS} Above 1 is faster than dense.",
           interval=True, better="higher", boards=_ACCURACY + _THROUGHPUT),
    _speed("single", "ratio", "speed", "batch-1 speed",
           "Measured speed of inference of one input against dense, timed side by side in one process; "
           f"{_ROUNDS} Above 1 is faster than dense.", interval=True, boards=_THROUGHPUT),
    _speed("single", "latency_median", "seconds", "batch-1 latency",
           "Measured time of inference of one input: the median over timing rounds.", boards=_THROUGHPUT),
    _speed("train", "images_per_second", "si", "train samples/s",
           "Measured training throughput between topology updates: samples, as the task counts them, per second.",
           extra=True, boards=_THROUGHPUT),
    _speed("inference", "images_per_second", "si", "infer samples/s",
           "Measured inference throughput: samples, as the task counts them, per second.", extra=True,
           boards=_THROUGHPUT),
    *(_speed(timed, f"ratio_{end}") for timed in TIMED for end in ("low", "high")),
    *(_speed(timed, "dense_images_per_second", "si") for timed in TIMED),
    _speed("train", "latency_median", "seconds"),
    _speed("inference", "latency_median", "seconds"),
    _speed("single", "images_per_second", "si"),
    MeasureRow("hardware_flops_ratio", "cost", "hardware FLOPs",
               "FLOPs against dense of the network that remains after compaction: what dense kernels can really "
               "skip.", boards=_FLOPS),
    _speed_up("inference_theory", "inference_flops_ratio", "infer theory",
              "Theoretical speed-up of inference: dense FLOPs over sparse FLOPs."),
    _speed_up("inference_hardware", "hardware_flops_ratio", "infer hardware",
              f"Hardware-supported speed-up of inference: {_REMAINS}"),
    _speed_up("train_theory", "training_flops_ratio", "train theory",
              "Theoretical speed-up of training: dense FLOPs over sparse FLOPs of the whole run, dense gradients for "
              "growth included."),
    _speed_up("train_hardware", "hardware_flops_ratio", "train hardware",
              f"Hardware-supported speed-up of a training step with the final masks: {_REMAINS}"),
    _path("train", "train path", f"{_EXECUTED} training was timed. {_AT_MOST_DENSE}", boards=_ACCURACY + _THROUGHPUT),
    _path("inference", "infer path", f"{_EXECUTED} inference was timed. {_AT_MOST_DENSE}",
          boards=_ACCURACY + _THROUGHPUT),
    _path("single", "batch-1 path", "How the sparse network was executed when inference of one input was timed.",
          extra=True, boards=_THROUGHPUT),
    MeasureRow("conditions", "text", "conditions",
               "Device, threads, batch size, precision and compile mode of the timing.", type=None, read=_conditions,
               over_seeds="union", timed=True, extra=True, boards=_THROUGHPUT),
    MeasureRow("contended", "flag", "contended", "Something else ran during the timing: shown, not ranked.",
               type=None, read=lambda m: (m.get("throughput") or {}).get("contended"), over_seeds="any", timed=True,
               boards=_ACCURACY + _THROUGHPUT),
    MeasureRow("throughput", "text", type=RecordedThroughput, within=(1 / LARGEST, LARGEST), framed=False),
    # totals and sizes
    MeasureRow("training_flops", "si", "train FLOPs total", "Theoretical FLOPs of the whole training run.",
               extra=True, boards=_FLOPS),
    MeasureRow("inference_flops", "si", "infer FLOPs total", "Theoretical FLOPs of one inference of one input.",
               extra=True, boards=_FLOPS),
    MeasureRow("dense_training_flops", "si"),
    MeasureRow("dense_inference_flops", "si"),
    MeasureRow("convention", "text", "convention", "How FLOPs are counted.", type=str, over_seeds="union",
               extra=True, boards=_FLOPS),
    # the same ratios by each convention's name
    MeasureRow("flops_by_convention", "text", type=dict[str, dict[str, float]], framed=False),
    MeasureRow("parameters", "si", "parameters", "Weights and biases of the dense network.",
               extra=True, boards=_FLOPS),
    MeasureRow("active_parameters", "si", "active parameters", "Parameters that are active at the end.",
               boards=_THEORY),
    MeasureRow("bits", "si", "bits", "Size of the stored sparse network in bits, masks included.",
               extra=True, boards=_FLOPS),
    MeasureRow("peak_memory", "bytes", "peak memory", "Highest memory use of the training process.",
               extra=True, boards=_ALL),
    MeasureRow("seconds", "seconds", "time", "Wall time of one trial.", extra=True, boards=_ALL),
    MeasureRow("epochs", "integer"),
    MeasureRow("steps", "integer"),
)  # fmt: skip

MEASURES = {row.key: row for row in _ROWS}
RARE = tuple(row.key for row in _ROWS if row.rare)
"""Measures that only some methods have: a board without such a row has no column of them."""
