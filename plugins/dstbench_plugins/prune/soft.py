"""Soft removal: weights survive by chance, the better the likelier (CHTs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Generator, Tensor

from dstbench.api import LayerView, StrategyError
from dstbench_plugins.checks import check_choice, check_fraction
from dstbench_plugins.draws import gumbel
from dstbench_plugins.prune.importance import RelativeImportance
from dstbench_plugins.prune.magnitude import Magnitude

Of = Literal["magnitude", "ri"]
Path = Literal["temperature", "softness"]


@dataclass(frozen=True)
class Soft:
    """Keep by sampling without replacement, p ∝ s^T, with s = |w| or relative importance; T rises from ``start`` to
    ``end`` until ``stop``, so that removal ends nearly greedy (CHTs, arXiv 2501.19107).

    As in the authors' code T is linear in the steps: from 1 to 9 over three quarters of the training for language
    models, to 3 for perceptrons. By the paper the softness δ is linear, T = δ/(1 - δ), from 0.5 to 0.9 or 0.75: the
    same ends, with ``path: softness`` in between. Its own line T = 1/(1 - δ) meets neither end. Active weights that
    are exactly zero, as those just grown, count as 1e-12.

    ``percolates`` has links that lead nowhere go, too, along chains of layers ("chain removal" of the authors' code,
    network percolation): rows of a layer whose column in the next is empty, columns whose row before is, queries and
    keys as well as gates and what they gate at the same index. As many links grow elsewhere in that update. Here
    residual streams keep theirs, dense layers keep what they touch, no layer is emptied, and biases stay.
    """

    of: Of = "magnitude"
    start: float = 1.0  # T at the first step
    end: float = 9.0  # T at ``stop`` and later
    stop: float = 0.75  # as a fraction of the steps
    path: Path = "temperature"  # what is linear in the steps
    percolates: bool = False  # network percolation: see above

    def __post_init__(self) -> None:
        """Refuse what isn't a course of temperatures."""
        check_choice("of", self.of, get_args(Of))
        check_choice("path", self.path, get_args(Path))
        check_fraction("stop", self.stop, above=True)
        for field in ("start", "end"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise StrategyError(f"{field}: expected a number >= 0, got {value!r}")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """T log s + Gumbel noise: float64 [*w]."""
        worth = (RelativeImportance() if self.of == "ri" else Magnitude())(layer, rng).double()
        return self.temperature(layer.progress) * worth.clamp(min=1e-12).log() + gumbel(worth, rng)

    def temperature(self, progress: float) -> float:
        """T at a fraction of the steps."""
        done = min(1.0, progress / self.stop)
        if self.path == "temperature":
            return self.start + (self.end - self.start) * done
        first, last = self.start / (1 + self.start), self.end / (1 + self.end)
        softness = first + (last - first) * done
        return softness / (1 - softness)
