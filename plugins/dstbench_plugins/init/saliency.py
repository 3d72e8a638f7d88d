"""Init by connection sensitivity: what the loss says of each weight at the first batch."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Policy, Signal
from dstbench_plugins.share.rank import Global


@dataclass(frozen=True)
class Saliency:
    """Keep the weights whose removal changes the loss most: |∂L/∂c| = |g·w| at c = 1 (SNIP, arXiv 1810.02340)."""

    needs: ClassVar[Signal] = Signal.GRAD

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|g·w|."""
        assert layer.grad is not None
        return (layer.grad * layer.weight).abs()


def snip() -> Policy:
    """The largest |g·w| of the whole network, from one batch of the training; every layer keeps at least one unit.

    The paper draws that batch first and starts anew; here it is the training's own first batch, and its step is
    taken with the sparse network.
    """
    return Policy(Saliency(), Global())
