"""Two layers by hand, and one update of them."""

import torch

from dstbench.api import Policy
from dstbench.core.engine.books import Goal
from dstbench.core.engine.structures import Unstructured, as_structure
from dstbench.core.engine.update import update_masks
from dstbench_plugins.grow.gradient import Gradient
from dstbench_plugins.prune.magnitude import Magnitude
from fakes.engine import bits, draw, view

MAGNITUDE, GRADIENT = Policy(Magnitude()), Policy(Gradient())


def update(layers, keep, final, prune=MAGNITUDE, grow=GRADIENT, structure=None, step=1):
    """One update in place; ``keep`` and ``final``: weights of each layer, in order."""
    views = {layer.name: layer for layer in layers}
    structures = dict.fromkeys(views, as_structure(structure or Unstructured()))
    goal = Goal(
        sum(keep), sum(final), dict(zip(views, keep, strict=True)), dict(zip(views, final, strict=True))
    )
    masks, budget, _ = update_masks(views, structures, prune, grow, goal, draw(step=step))
    return masks, budget


def one(weight, mask, keep, final, prune=MAGNITUDE, grow=GRADIENT, step=1, **signals):
    """The mask of a single layer after one update."""
    masks, _ = update([view(weight, mask, **signals)], [keep], [final], prune, grow, step=step)
    return masks["layer"]


A = view(
    torch.tensor([[4.0, -1, 0, 0], [-3, 2, 0, 0]]),
    bits("1100", "1100"),
    name="a",
    grad=torch.tensor([[0.0, 9, 1, -8], [0, 0, 7, 0]]),
    momentum=torch.tensor([[1.0, 1, 5, 0], [1, 1, 0, 6]]),
)
B = view(
    torch.tensor([[0.0, 0.5], [0.1, 0], [-0.3, 0]]),
    bits("01", "10", "10"),
    name="b",
    grad=torch.tensor([[2.0, 0], [0, -3], [0, 1]]),
    momentum=torch.tensor([[4.0, 3], [3, 0], [3, 2]]),
)
