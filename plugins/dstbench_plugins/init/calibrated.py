"""Inits by what comes into layers, before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView, Policy, Rounds
from dstbench_plugins.checks import check_integer
from dstbench_plugins.init.uniform import Uniform
from dstbench_plugins.prune.wanda import Wanda


@dataclass(frozen=True)
class CalibratedWanda:
    """Wanda of the initial weights, by the inputs of ``batches`` batches in training mode, before training."""

    accumulators: ClassVar[dict[str, Any]] = {"input_norm": "input_norm"}
    batches: int = 1

    def __post_init__(self) -> None:
        """Refuse what sees nothing."""
        check_integer("batches", self.batches)

    @property
    def rounds(self) -> Rounds:
        """One look."""
        return Rounds(1, batches=self.batches)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose columns aren't inputs."""
        return Wanda().misfit(layer)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Rank in the row / its length: float64 [*w]."""
        return Wanda()(layer, rng)


def wanda(batches: int = 1) -> Policy:
    """Keep the largest |w_ij| · ‖X_j‖₂ of each output row, ‖X_j‖ the norm of input column j over ``batches``
    batches in training mode (Wanda, arXiv 2306.11695), at one density in every layer: the same share of every row.

    The authors prune language models that are trained already, by 128 sequences of C4; here the weights are those
    that training begins with. See prune ``wanda``.
    """
    return Policy(CalibratedWanda(batches), Uniform())
