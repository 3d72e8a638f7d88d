"""What the leaderboards show: every column with its meaning and its form, and the three boards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dstbench.report.values import Column, is_missing

COLUMNS = {
    column.key: column
    for column in (
        Column(
            "rank",
            "#",
            "Mean rank over complete blocks (model × dataset × density) of the methods that every block "
            "ranks. Never ranked: controls; accuracy of one seed; speed of a masked-dense network or beside "
            "other work.",
            "rank",
        ),
        Column("method", "method", "The recipe's name, or init · structure · prune · grow."),
        Column(
            "control",
            "control",
            "What a sparse method has to beat: dense, static at the same allocation, small-dense with"
            " as many parameters.",
        ),
        Column("init", "init", "Which weights start active, and how many in each layer."),
        Column("structure", "structure", "Which masks are legal."),
        Column("prune", "prune", "Which active weights an update drops."),
        Column("grow", "grow", "Which inactive weights an update activates."),
        Column("schedule", "schedule", "When the topology is updated, and by how much.", extra=True),
        Column("model", "model", "The network."),
        Column("dataset", "dataset", "The data."),
        Column(
            "density_requested",
            "density",
            "Requested share of active weights over the maskable layers in the budget.",
            "fraction",
        ),
        Column(
            "density",
            "measured",
            "Measured share of active weights, from the masks at the end.",
            "fraction",
        ),
        Column(
            "setting",
            "setting",
            "Training settings that differ from the defaults; layers left dense.",
            extra=True,
        ),
        Column("seeds", "n", "Seeds that finished and went into the means.", "integer"),
        Column(
            "top1",
            "top-1 %",
            "Test accuracy of the final epoch in percent: mean over seeds, with its 95 % t-interval "
            "from two seeds on. Nothing is selected on test data.",
            "percent",
            interval=True,
        ),
        Column(
            "difference",
            "Δ dense",
            "Difference to the dense control in percent points, paired by seed, with its 95 % t-interval.",
            "points",
            interval=True,
        ),
        Column(
            "p_holm",
            "p (Holm)",
            "Paired t-test against dense, corrected over all methods of the same model and dataset "
            "(Holm). Not given below three seeds.",
            "p",
            extra=True,
        ),
        Column(
            "top1_validation",
            "validation %",
            "Validation accuracy of the final epoch in percent.",
            "percent",
            extra=True,
        ),
        Column(
            "loss", "loss", "Mean cross-entropy of the final epoch on the test split.", "fraction", extra=True
        ),
        Column(
            "r_s",
            "R_s",
            "In-time over-parameterisation: share of weights that were ever active.",
            "fraction",
        ),
        Column(
            "never_dropped",
            "never dropped",
            "Share of the initially active weights that every topology since has held.",
            "fraction",
            extra=True,
        ),
        Column(
            "channel_excess_80",
            "sparse channels (0.8)",
            "Share of channels with a density below 0.8 times their layer's mean, minus what chance gives:"
            " Binomial(fan-in, density). 0: as even as a random mask.",
            "fraction",
            extra=True,
        ),
        Column(
            "channel_excess_50",
            "sparse channels (0.5)",
            "The same with densities below half of their layer's mean.",
            "fraction",
            extra=True,
        ),
        Column(
            "channel_gini",
            "channel Gini",
            "Gini coefficient of the channels' densities within a layer; 0: all channels are equally dense.",
            "fraction",
            extra=True,
        ),
        Column(
            "channel_dead", "dead channels", "Share of channels without a weight.", "fraction", extra=True
        ),
        Column(
            "bottom_early",
            "bottom set early",
            "Share of the final bottom set (each layer's 30 % of channels with the least mean |w|) that was in"
            " it after a quarter of the training. Chance: 0.3.",
            "fraction",
            extra=True,
        ),
        Column("updates", "updates", "Topology updates in one training run.", "integer", extra=True),
        Column(
            "churn",
            "churn",
            "Mean share of active weights that one update replaces.",
            "fraction",
            extra=True,
        ),
        Column("collapsed", "collapsed", "Layers that lost all their weights.", "integer", extra=True),
        Column(
            "training_flops_ratio",
            "train FLOPs",
            "Theoretical training FLOPs against dense, integrated over the real mask trajectory, "
            "dense gradients for growth included.",
            "ratio",
        ),
        Column(
            "inference_flops_ratio",
            "infer FLOPs",
            "Theoretical FLOPs of one inference against dense.",
            "ratio",
        ),
        Column(
            "hardware_flops_ratio",
            "hardware FLOPs",
            "FLOPs against dense of the network that remains after compaction: what dense kernels can"
            " really skip.",
            "ratio",
        ),
        Column(
            "training_flops",
            "train FLOPs total",
            "Theoretical FLOPs of the whole training run.",
            "si",
            extra=True,
        ),
        Column(
            "inference_flops",
            "infer FLOPs total",
            "Theoretical FLOPs of one inference of one image.",
            "si",
            extra=True,
        ),
        Column("convention", "convention", "How FLOPs are counted.", extra=True),
        Column(
            "train_throughput_ratio",
            "train speed",
            "Measured training throughput against dense, timed side by side in one process; brackets are "
            "quartiles over timing rounds. It times the steps between topology updates: an update itself is "
            "not in it. Above 1 is faster than dense.",
            "ratio",
            interval=True,
        ),
        Column(
            "inference_throughput_ratio",
            "infer speed",
            "Measured inference throughput against dense, timed side by side in one process; brackets are "
            "quartiles over timing rounds. Above 1 is faster than dense.",
            "ratio",
            interval=True,
        ),
        Column(
            "train_images_per_second",
            "train img/s",
            "Measured training throughput between topology updates, images per second.",
            "si",
            extra=True,
        ),
        Column(
            "inference_images_per_second",
            "infer img/s",
            "Measured inference throughput, images per second.",
            "si",
            extra=True,
        ),
        Column(
            "single_throughput_ratio",
            "batch-1 speed",
            "Measured speed of inference of one image against dense, timed side by side in one process; brackets "
            "are quartiles over timing rounds. Above 1 is faster than dense.",
            "ratio",
            interval=True,
        ),
        Column(
            "single_latency_median",
            "batch-1 latency",
            "Measured time of inference of one image: the median over timing rounds.",
            "seconds",
        ),
        Column(
            "inference_theory",
            "infer theory",
            "Theoretical speed-up of inference: dense FLOPs over sparse FLOPs.",
            "ratio",
        ),
        Column(
            "inference_hardware",
            "infer hardware",
            "Hardware-supported speed-up of inference: dense FLOPs over those of the network that remains after "
            "compaction.",
            "ratio",
        ),
        Column(
            "train_theory",
            "train theory",
            "Theoretical speed-up of training: dense FLOPs over sparse FLOPs of the whole run, dense gradients for "
            "growth included.",
            "ratio",
        ),
        Column(
            "train_hardware",
            "train hardware",
            "Hardware-supported speed-up of a training step with the final masks: dense FLOPs over those of the "
            "network that remains after compaction.",
            "ratio",
        ),
        Column(
            "inference_path",
            "infer path",
            "How the sparse network was executed when its inference was timed. masked-dense computes every zero:"
            " 1× is the most it can reach.",
        ),
        Column(
            "train_path",
            "train path",
            "How the sparse network was executed when its training was timed. masked-dense computes every zero:"
            " 1× is the most it can reach.",
        ),
        Column(
            "single_path",
            "batch-1 path",
            "How the sparse network was executed when inference of one image was timed.",
            extra=True,
        ),
        Column(
            "conditions",
            "conditions",
            "Device, threads, batch size, precision and compile mode of the timing.",
            extra=True,
        ),
        Column("contended", "contended", "Something else ran during the timing: shown, not ranked.", "flag"),
        Column(
            "pareto",
            "Pareto",
            "On the front of top-1 against training FLOPs within its model and dataset.",
            "flag",
        ),
        Column("parameters", "parameters", "Weights and biases of the dense network.", "si", extra=True),
        Column("active_parameters", "active parameters", "Parameters that are active at the end.", "si"),
        Column(
            "bits",
            "bits",
            "Size of the stored sparse network in bits, masks included.",
            "si",
            extra=True,
        ),
        Column(
            "peak_memory",
            "peak memory",
            "Highest memory use of the training process.",
            "bytes",
            extra=True,
        ),
        Column("seconds", "time", "Wall time of one trial.", "seconds", extra=True),
        Column("statuses", "trials", "How the trials of this row ended."),
        Column("reason", "why missing", "Why trials failed or were skipped."),
        Column("note", "note", "What to know when reading this row."),
    )
}


@dataclass(frozen=True)
class Board:
    """One leaderboard: which columns, what it is ranked by, and in which direction better lies."""

    name: str
    title: str
    summary: str
    by: str
    higher: bool
    keys: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns, in order."""
        return tuple(COLUMNS[key] for key in self.keys)


_METHOD = ("rank", "method", "control", "init", "structure", "prune", "grow", "schedule")
_PLACE = ("model", "dataset", "density_requested", "density", "setting")
_END = ("peak_memory", "seconds", "statuses", "reason", "note")

BOARDS = (
    Board(
        "accuracy", "Accuracy",
        "Test accuracy of the final epoch: mean over seeds with its 95 % interval, beside what it costs.",
        "top1", True,
        (*_METHOD, *_PLACE, "seeds", "top1", "difference", "p_holm", "top1_validation", "loss", "r_s",
         "never_dropped", "channel_excess_80", "channel_excess_50", "channel_gini", "channel_dead",
         "bottom_early", "updates", "churn", "collapsed", "training_flops_ratio", "train_throughput_ratio",
         "inference_flops_ratio", "inference_throughput_ratio", "train_path", "inference_path", "contended",
         "active_parameters", *_END),
    ),
    Board(
        "flops", "FLOPs",
        "Theoretical cost against dense. Theory, not time: what is really faster is on the throughput board.",
        "training_flops_ratio", False,
        (*_METHOD, *_PLACE, "seeds", "training_flops_ratio", "inference_flops_ratio", "hardware_flops_ratio",
         "pareto", "top1", "difference", "r_s", "updates", "churn", "training_flops", "inference_flops",
         "convention", "parameters", "active_parameters", "bits", *_END),
    ),
    Board(
        "throughput", "Throughput",
        "Speed-ups against dense: in theory, what dense kernels can skip once removable channels are gone, and as "
        "measured, side by side in one process.",
        "inference_throughput_ratio", True,
        (*_METHOD, *_PLACE, "seeds", "inference_theory", "inference_hardware", "inference_throughput_ratio",
         "inference_path", "single_throughput_ratio", "single_latency_median", "single_path",
         "inference_images_per_second", "train_theory", "train_hardware", "train_throughput_ratio",
         "train_path", "train_images_per_second", "conditions", "contended", "top1", "difference", *_END),
    ),
)  # fmt: skip


def may_gain(path: Any) -> bool:
    """Whether a network timed on this execution path can differ from dense by more than timing noise."""
    return not is_missing(path) and {"dense", "masked-dense"}.isdisjoint(str(path).split("; "))
