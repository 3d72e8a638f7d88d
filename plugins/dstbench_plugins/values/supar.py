"""SμPar: initial values and learning rates by density."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal, get_args

from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView, StrategyError
from dstbench_plugins.checks import check_choice
from dstbench_plugins.draws import normal
from dstbench_plugins.values.scaled import check_scale

Rule = Literal["auto", "adam", "sgd"]
_RULES: dict[str, Rule] = {"Adam": "adam", "AdamW": "adam", "SGD": "sgd"}


@dataclass(frozen=True)
class SparseMaximalUpdate:
    """SμPar, sparse maximal update parameterisation (arXiv 2405.15743, table 1), of hidden weights:
    σ² = σ_base² / (m_d · m_ρ); learning rate of Adam η / (m_d · m_ρ), of SGD η / m_ρ. m_ρ is the layer's density /
    ``base_density``, m_d the model's ``width`` / ``base_width``, one for all layers; 1 without ``base_width``: then
    only sparsity is corrected for. Without ``width`` each layer's own fan-in stands for it, which in a transformer is
    four times as much where a block narrows again.

    ``sigma`` None scales the model's own initial values by 1/√m_ρ instead: these know their width already. The
    paper's tuned proxy, a language model 256 wide, has σ = 0.08665602 and η = 0.0162.

    A static method: where masks move it corrects too much, as the paper found for RigL and gradual pruning, so there
    a warning is said. Hidden weights are all that are masked but the classifier's and a first convolution's; a
    perceptron's first layer counts among them. The rate has its factor whatever a schedule says; weight decay that
    goes with the rate has it, too. What the paper changes in the model isn't changed here: multipliers of embeddings
    and logits (tuned: 9.1705, and 1.0951835 / m_d), attention by 1/d_head, and its code's 1/√(2L) before residuals.
    """

    sigma: float | None = None  # σ_base; None: the model's own values
    base_width: int | None = None
    width: int | None = None  # of the model; None: each layer's fan-in
    base_density: float = 1.0
    optimizer: Rule = "auto"  # by the training's own

    def __post_init__(self) -> None:
        """Refuse what nothing can be measured by."""
        check_choice("optimizer", self.optimizer, get_args(Rule))
        check_scale(self.base_density, "base_density")
        if self.width is not None and self.base_width is None:
            raise StrategyError(f"width: expected a base_width beside it, got {self.width!r} alone")
        for field in ("sigma", "base_width", "width"):
            if getattr(self, field) is not None:
                check_scale(getattr(self, field), field)

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """N(0, σ²), or the model's own values / √m_ρ: float [*w]."""
        if not _hidden(layer.info):
            return layer.weight
        sparsity = self._sparsity(int(layer.mask.count_nonzero()) / layer.info.numel)
        if self.sigma is None:
            return layer.weight / sqrt(sparsity)
        deviation = self.sigma / sqrt(self._width(layer.info) * sparsity)
        return (deviation * normal(layer.weight, rng)).to(layer.weight.dtype)

    def lr_scale(self, layer: LayerInfo, density: float) -> float:
        """1 / (m_d · m_ρ) under Adam, 1 / m_ρ under SGD."""
        if not _hidden(layer):
            return 1.0
        width = 1.0 if self.optimizer == "sgd" else self._width(layer)
        return 1 / (width * self._sparsity(density))

    def for_optimizer(self, kind: str) -> SparseMaximalUpdate:
        """With the rule of the optimizer."""
        if self.optimizer != "auto":
            return self
        if kind not in _RULES:
            raise StrategyError(
                f"values 'supar': its learning rates are known for {', '.join(_RULES)}, not for {kind}: name "
                "the rule that it goes by, optimizer: adam or sgd"
            )
        return replace(self, optimizer=_RULES[kind])

    def caution(self, updates: bool) -> str | None:
        """That it is for masks that stay."""
        if not updates:
            return None
        return (
            "values 'supar' correct for the density of masks that stay: where they move, as here, initial values and "
            "learning rates come out too large (arXiv 2405.15743, section 4.4)"
        )

    def _width(self, layer: LayerInfo) -> float:
        """m_d."""
        if self.base_width is None:
            return 1.0
        return (self.width or layer.numel / layer.shape[0]) / self.base_width

    def _sparsity(self, density: float) -> float:
        """m_ρ; a layer without a weight counts as one with few."""
        return max(density, 1e-6) / self.base_density


def _hidden(layer: LayerInfo) -> bool:
    return not (layer.classifier or layer.first_conv)
