"""Layer-adaptive magnitude pruning (LAMP)."""

from dataclasses import dataclass

from torch import Generator, Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class Lamp:
    """Keep the largest w_u² / Σ w_v² over the weights v of the same layer that are no smaller than u (LAMP,
    arXiv 2010.07611). To be ranked over all layers: ``{name: lamp, share: global}``.

    The largest weight of every layer scores exactly 1, so that no layer dies before all are down to one. Among equal
    weights the later one scores higher, as in the authors' code, which takes the counts from these scores and then
    prunes each layer by |w|: the same but for ties. The sum is over active weights.
    """

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """w² / (the sum of squares from its place on in ascending |w|): float64 [*w]."""
        squares = (layer.weight * layer.mask).double().flatten().square()
        order = squares.argsort(stable=True)
        ascending = squares[order]
        rest = ascending.flip(0).cumsum(0).flip(0)
        scores = squares.new_zeros(squares.shape)
        scores[order] = (ascending / rest).masked_fill(ascending == 0, 0)
        return scores.view(layer.shape)
