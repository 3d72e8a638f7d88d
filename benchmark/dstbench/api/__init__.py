"""All that a plugin imports: the protocols of the strategy kinds and the values they exchange (``strategies``
and, where torch isn't needed, ``dstbench.recipe``), those of data sets and models (``data``, ``samples``), what is
asked of them (``tasks``), what weights hold (``weight_values``), exact top-k (``select``), and fast paths
(``execution``).

A strategy is a frozen dataclass with ``__call__``: its fields are the hyper-parameters, its repr is the
label on the leaderboard, its equality keeps a trial's identity stable, and it holds no state.

``*w`` is the shape of a layer's weight, ``[out, in, *kernel]``. Counts are numbers of *weights* unless a
name says units. Densities are fractions in [0, 1].
"""

from __future__ import annotations

from dstbench.api.accumulators import Accumulator, Reset
from dstbench.api.data import Augment, DatasetFactory, Files, ImageData, ModelFactory, Split
from dstbench.api.execution import Execution, LayerCall
from dstbench.api.samples import Examples, Samples, TaskData, Tokens
from dstbench.api.select import kth_largest, take_top
from dstbench.api.strategies import (
    Coupling,
    Heads,
    InPlace,
    LayerInfo,
    LayerView,
    Layout,
    Policy,
    Quota,
    Random,
    Schedule,
    Score,
    Share,
    Structure,
    Support,
)
from dstbench.api.tasks import CLASSIFICATION, Batch, Metric, Task, next_token
from dstbench.api.weight_values import Keep, ValuePolicy, Values
from dstbench.errors import DataUnavailable, Infeasible, StrategyError
from dstbench.recipe import Clock, Recipe, Rounds, Signal, Spec, Target

__all__ = [
    "CLASSIFICATION",
    "Accumulator",
    "Augment",
    "Batch",
    "Clock",
    "Coupling",
    "DataUnavailable",
    "DatasetFactory",
    "Examples",
    "Execution",
    "Files",
    "Heads",
    "ImageData",
    "InPlace",
    "Infeasible",
    "Keep",
    "LayerCall",
    "LayerInfo",
    "LayerView",
    "Layout",
    "Metric",
    "ModelFactory",
    "Policy",
    "Quota",
    "Random",
    "Recipe",
    "Reset",
    "Rounds",
    "Samples",
    "Schedule",
    "Score",
    "Share",
    "Signal",
    "Spec",
    "Split",
    "StrategyError",
    "Structure",
    "Support",
    "Target",
    "Task",
    "TaskData",
    "Tokens",
    "ValuePolicy",
    "Values",
    "kth_largest",
    "next_token",
    "take_top",
]
