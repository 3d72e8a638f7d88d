"""Starting dense."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from dstbench.api import LayerView, Policy, Random
from dstbench_plugins.init.erk import ERK


@dataclass(frozen=True)
class Everywhere:
    """Every weight that the structure allows, until the first topology update takes the network to its density."""

    full: ClassVar[bool] = True

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Random, float [*w]: a structure that can't hold all of them takes any."""
        return Random()(layer, rng)


def dense_init() -> Policy:
    """A dense start, and ERK's allocation after the first update; ``share`` sets another."""
    return Policy(Everywhere(), ERK())
