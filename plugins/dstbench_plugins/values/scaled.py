"""Initial values by how many weights a mask leaves a unit (Evci et al., CHTs, Pixelfly)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal, get_args

from torch import Generator, Tensor

from dstbench.api import LayerView, StrategyError
from dstbench_plugins.checks import check_choice
from dstbench_plugins.draws import normal, uniform

Fan = Literal["fanin", "fanout", "fanavg"]
Distribution = Literal["uniform", "normal"]


@dataclass(frozen=True)
class UnitScaled:
    """Each weight is drawn by the fans of the two units that it links: variance ``scale`` / max(1, fan), with active
    weights alone counted (Gradient Flow in Sparse Neural Networks, arXiv 2010.03533, as RigL's code has it).

    ``fanin``: the active weights of its output row. ``fanout``: those of its input, over all rows and taps.
    ``fanavg``, the code's default: their mean. Uniform draws, the default there, lie within ±√(3 · scale / fan).
    Scale 2 with ``fanin`` is He's initialisation of sparse layers: fan-ins 2, 1, 4 give deviations 1, 1.4142, 0.7071.

    Said of the initial mask alone; what grows starts at zero. A depthwise convolution's input feeds its own row
    alone. In other grouped convolutions, whose groups no layer tells of, a fan-out is counted over all groups.
    """

    fan: Fan = "fanavg"
    distribution: Distribution = "uniform"
    scale: float = 1.0  # 2 = He

    def __post_init__(self) -> None:
        """Refuse what no weight can be drawn by."""
        check_choice("fan", self.fan, get_args(Fan))
        check_choice("distribution", self.distribution, get_args(Distribution))
        check_scale(self.scale)

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """√(scale / fan) times a draw of variance 1: float [*w]."""
        deviation = (self.scale / self._fan(layer).clamp(min=1.0)).sqrt()
        if self.distribution == "normal":
            return (deviation * normal(layer.weight, rng)).to(layer.weight.dtype)
        return (sqrt(3) * deviation * (2 * uniform(layer.weight, rng) - 1)).to(layer.weight.dtype)

    def _fan(self, layer: LayerView) -> Tensor:
        """The fan of each weight: float64, broadcasting to [*w]."""
        links = (
            layer.mask.flatten(2).sum(2).double() if layer.mask.ndim > 2 else layer.mask.double()
        )  # [out, in]
        rows, columns = links.sum(1, keepdim=True), links.sum(0, keepdim=True)
        if layer.info.kind == "conv_transpose":  # whose rows are its inputs
            rows, columns = columns, rows
        elif layer.info.kind == "conv" and layer.shape[1] == 1 and not layer.info.first_conv:
            columns = rows
        fan = {"fanin": rows, "fanout": columns, "fanavg": (rows + columns) / 2}[self.fan]
        return fan.reshape(*fan.shape, *(1,) * (layer.mask.ndim - 2))


@dataclass(frozen=True)
class LayerScaled:
    """The model's own initial values / √(the layer's density), so that a random mask leaves sums as large as they
    were (``layer_scaled_init`` of RigL's code, for whatever the model draws by)."""

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """w / √d: float [*w]."""
        return layer.weight / sqrt(max(1, int(layer.mask.count_nonzero())) / layer.info.numel)


@dataclass(frozen=True)
class MeanFanOut:
    """SWI, sparse weight initialisation of CHTs (arXiv 2501.19107): normal, σ = √(2 / (active weights / inputs)).

    As in the authors' code, which divides by the mean number of active weights of an *input*, a fan-out; the paper's
    words are of fan-in. An input is a column of the matrix [out, in · taps]; the paper has linear layers alone.
    """

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """σ times a standard normal draw: float [*w]."""
        inputs = layer.info.numel // layer.shape[0]
        deviation = sqrt(2 * inputs / max(1, int(layer.mask.count_nonzero())))
        return (deviation * normal(layer.weight, rng)).to(layer.weight.dtype)


@dataclass(frozen=True)
class RowScaled:
    """The model's own initial values × √(columns / active columns) of each row, which in block structures is each
    block row's (Pixelated Butterfly, arXiv 2112.00029, as its code has it)."""

    def initial(self, layer: LayerView, rng: Generator) -> Tensor:
        """w √(columns / active columns): float [*w]."""
        active = layer.mask.flatten(1).sum(1).clamp(min=1)
        factor = (layer.info.numel // layer.shape[0] / active.double()).sqrt().to(layer.weight.dtype)
        return layer.weight * factor.reshape(-1, *(1,) * (layer.weight.ndim - 1))


def check_scale(value: object, field: str = "scale") -> None:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise StrategyError(f"{field}: expected a number > 0, got {value!r}")
