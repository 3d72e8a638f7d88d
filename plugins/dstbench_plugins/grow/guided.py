"""Growth guided by the gradients of a random subset (GSE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView, Signal, StrategyError
from dstbench_plugins.checks import check_choice
from dstbench_plugins.draws import uniform

By = Literal["uniform", "grabo", "graest"]


@dataclass(frozen=True)
class GuidedExploration:
    """Activate where |g| is largest among ⌊γ · active weights⌋ positions drawn uniformly with replacement, active
    ones among them (Guided Stochastic Exploration, arXiv 2401.06898, as its code has it).

    γ = 1 is the default there, 2 for ImageNet. Where at least half of a layer is active every position is drawn, as
    it is by RigL. Fewer candidates than places are made up by random ones, so that counts are exact; the code grows
    fewer. It grows before it prunes, so what an update drops isn't a candidate there: here it comes last. The dense
    gradient is computed, and charged, where theirs is computed at the drawn positions alone.

    ``by`` is how a pair of output and input is drawn: both uniformly (the paper's choice), or by what passed through
    them in the update's step: ``grabo`` by Σ|∂L/∂y| and Σ|x|, ``graest`` by |Σ ±∂L/∂y| and |Σ ±x| with random signs
    (the code's "ams"). Layers through which nothing passed are drawn uniformly; transposed convolutions can't be seen
    through, and are grown at random.
    """

    needs: ClassVar[Signal] = Signal.GRAD
    gamma: float = 1.0  # positions drawn per active weight
    by: By = "uniform"

    @property
    def accumulators(self) -> dict[str, Any]:
        """What pairs are drawn by."""
        kinds = {
            "grabo": ("input_size", "output_gradient_size"),
            "graest": ("signed_input", "signed_output_gradient"),
        }
        return dict(zip(("inputs", "outputs"), kinds.get(self.by, ()), strict=False))

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers that nobody can see through."""
        hidden = self.by != "uniform" and layer.kind == "conv_transpose"
        return "what passes through a transposed convolution can't be seen" if hidden else None

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        check_choice("by", self.by, get_args(By))
        if isinstance(self.gamma, bool) or not 0 < self.gamma < float("inf"):
            raise StrategyError(f"gamma: expected a number > 0, got {self.gamma!r}")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g| where drawn, in [-2, -1) elsewhere, in [-4, -3) where just dropped: float64 [*w]."""
        assert layer.grad is not None
        others = -1 - uniform(layer.weight, rng)
        scores = torch.where(self._drawn(layer, rng), layer.grad.abs().double(), others)
        return torch.where(layer.before & ~layer.mask, others - 2, scores)

    def _drawn(self, layer: LayerView, rng: Generator) -> Tensor:
        """Which positions were drawn, bool [*w]."""
        active, size = int(layer.before.count_nonzero()), layer.info.numel
        drawn = torch.ones(size, dtype=torch.bool)
        if 2 * active < size:
            drawn = torch.zeros(size, dtype=torch.bool)
            drawn[self._positions(layer, int(self.gamma * active), rng)] = True
        return drawn.view(layer.shape).to(layer.weight.device)

    def _positions(self, layer: LayerView, count: int, rng: Generator) -> Tensor:
        """Flat positions drawn with replacement: int64 [count]."""
        if self.by == "uniform" or not count:
            return torch.randint(layer.info.numel, (count,), generator=rng)
        columns = layer.extra["inputs"].flatten(1).abs().double().cpu()
        rows = layer.extra["outputs"].flatten(1)[:, 0].abs().double().cpu()
        width = columns.shape[1]
        a = torch.multinomial(_masses(rows), count, replacement=True, generator=rng)
        columns = _masses(columns)
        if bool((columns == columns[:1]).all()):
            b = torch.multinomial(columns[0], count, replacement=True, generator=rng)
        else:  # groups: an output has inputs of its own
            b = torch.multinomial(columns[a], 1, generator=rng)[:, 0]
        return a * width + b


def _masses(sizes: Tensor) -> Tensor:
    """Sizes to draw by, along the last dimension: ones where all of them are zero."""
    return torch.where(sizes.sum(-1, keepdim=True) > 0, sizes, 1.0)
