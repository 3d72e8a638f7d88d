"""Pruning by relative importance (CHTss)."""

from dataclasses import dataclass

from torch import Generator, Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class RelativeImportance:
    """Keep the largest RI: a weight's share of its column plus its share of its row,
    RI_ij = |w_ij| / Σ_i' |w_i'j| + |w_ij| / Σ_j' |w_ij'| over active weights (CHTs, arXiv 2501.19107, eq. 1).

    RI lies in [0, 2]; the only link of a row and of a column has 2, so that neurons keep their last links, which
    magnitude takes. A convolution is the matrix [out, in · taps]. Read in the paper and in the authors' code; theirs
    adds 1e-5 to each sum, here 0/0 is 0.
    """

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Column share + row share: float64 [*w]."""
        sizes = (layer.weight * layer.mask).abs().double().flatten(1)
        shares = sizes / sizes.sum(0) + sizes / sizes.sum(1, keepdim=True)
        return shares.masked_fill(sizes == 0, 0).view(layer.shape)
