"""What builds up of a layer's inputs and of its outputs' gradients, over the last steps before a topology update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dstbench.api import Clock, LayerView, Reset, Signal
from dstbench_plugins.checks import check_choice, check_integer

Of = Literal["input", "output_gradient"]


@dataclass(frozen=True)
class InputNorm:
    """‖X_j‖₂ of each input column over all samples and places of the last ``window`` steps before a topology update,
    or of an init's batches (Wanda, arXiv 2306.11695): squares are summed in float32, over ranks, too, then rooted.

    A convolution's columns are (channel, dy, dx), as ``unfold`` makes them of its strided, padded input. Only forward
    passes with gradients count. Their code keeps the mean over sequences, which is a constant factor.
    """

    needs: ClassVar[Signal] = Signal.INPUTS
    dtype: ClassVar[torch.dtype] = torch.float32
    reset: ClassVar[Reset] = "update"
    window: int = 1

    def __post_init__(self) -> None:
        """Refuse what sees nothing."""
        check_integer("window", self.window)

    def entry(self, values: Tensor) -> Tensor:
        """x²."""
        return values.square()

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """√(norm² + Σ x²): float32 [1, in, *kernel]."""
        return (total.square() + layer.extra["seen"]).sqrt()


@dataclass(frozen=True)
class PassingSum:
    """Σ|x| of each input column, or Σ|∂L/∂y| of each output row, over the last ``window`` steps: by which GSE's GraBo
    draws (arXiv 2401.06898).

    ``signed``: Σ ±x or Σ ±∂L/∂y, with a random sign for each sample and place, the same for both: their product is
    the gradient, in expectation over the signs (GraEst). For a convolution the authors' code takes the gradient of
    the first place alone; here all count.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    reset: ClassVar[Reset] = "update"
    of: Of = "input"
    signed: bool = False
    window: int = 1

    def __post_init__(self) -> None:
        """Refuse what sees nothing."""
        check_choice("of", self.of, get_args(Of))
        check_integer("window", self.window)

    @property
    def needs(self) -> Signal:
        """What passes."""
        return Signal.INPUTS if self.of == "input" else Signal.OUTPUT_GRADIENTS

    def entry(self, values: Tensor) -> Tensor:
        """The value, or its size."""
        return values.clone() if self.signed else values.abs()

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """Σ: float32 [1, in, *kernel] or [out, 1, …]."""
        return total + layer.extra["seen"]
