"""Block extraction: from a score per weight to groups of similar rows and the columns each group keeps.

The steps are those of ``extract_dense`` in the authors' code of dynamic shuffled blocks (DSB), without its
loops: one matrix product for all row similarities, one ranking for all columns of all groups.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from torch import Tensor

from dstbench.accel.kernels.groups import reduce_groups
from dstbench.api import take_top

__all__ = ["best_columns", "cluster_rows", "column_scores", "equal_columns"]


def cluster_rows(support: Tensor, block_size: int) -> Tensor:
    """Order rows so that every ``block_size`` of them form a group of similar rows: int64 [out].

    ``support``: bool [out, k]. Distance is 1 - cosine of the binary rows; complete linkage; out // block_size
    clusters, the largest first (ties: the one with the lowest row), which are then cut into groups. Clusters
    aren't balanced, so a group may straddle two, as published.
    """
    rows = support.shape[0]
    clusters = max(rows // block_size, 1)
    if clusters == 1:
        return torch.arange(rows, device=support.device)
    label = _complete_linkage(_distances(support), clusters)
    _, lowest, count = np.unique(label, return_index=True, return_counts=True)
    order = np.lexsort((np.arange(rows), lowest[label], -count[label]))
    return torch.from_numpy(order).to(support.device)


def column_scores(scores: Tensor, perm: Tensor, block_size: int, taps: int) -> Tensor:
    """The root mean square of each column of each group, over the largest score: float32 [groups, columns].

    ``scores``: float [out, k], >= 0. For groups of equal size this ranks as the published L2 norm does; the
    mean, so that a smaller last group competes by what a weight of it is worth, not by its size.
    """
    top = scores.max()
    unit = scores / top if float(top) > 0 else scores  # so that squares of tiny scores don't vanish
    mean = reduce_groups(unit.float().square_(), perm, block_size, torch.mean)
    return mean.view(len(mean), -1, taps).mean(2).sqrt_()


def best_columns(scores: Tensor, sizes: Tensor, n: int) -> Tensor:
    """Take the best columns of all groups until about n weights are active: bool [groups, columns].

    ``scores``: float [groups, columns]; ``sizes``: int64 [groups], weights of one column. Ranked over the
    whole layer, so groups may end with few columns or none; equal scores take the lowest column first, so
    that they spread over the groups. The sum is the nearest to n that the ranking can give, thus within half
    of the largest size where n is feasible; at least one column is taken.
    """
    groups, columns = scores.shape
    flat = scores.T.reshape(-1)
    smaller = columns if int(sizes[-1]) < int(sizes[0]) else 0
    candidates = take_top(flat, n // int(sizes[0]) + 1 + smaller, at_most=True).nonzero()[:, 0]
    ranked = candidates[flat[candidates].sort(descending=True, stable=True).indices]
    active = sizes[ranked % groups].cumsum(0)
    end = min(int(torch.searchsorted(active, n)), len(ranked) - 1)
    if end > 0 and n - int(active[end - 1]) <= int(active[end]) - n:
        end -= 1
    taken = torch.zeros_like(flat, dtype=torch.bool)
    taken[ranked[: end + 1]] = True
    return taken.view(columns, groups).T


def equal_columns(scores: Tensor, count: int) -> Tensor:
    """Take every group's ``count`` best columns, lower indices first on a tie: bool [groups, columns]."""
    threshold = scores.topk(count, dim=1).values[:, -1:]
    above, ties = scores > threshold, scores == threshold
    return above | (ties & (ties.cumsum(1) <= count - above.sum(1, keepdim=True)))


def _distances(support: Tensor) -> np.ndarray:
    """1 - cosine between all pairs of rows, float32 [out, out]; an empty row is at distance 1 from any other.

    The product counts common columns: whole numbers, exact in float32 on every device and in any order.
    """
    binary = support.float()
    length = binary.sum(1).clamp_(min=1).sqrt_()
    cosine = (binary @ binary.T).div_(length).div_(length[:, None])
    return cosine.neg_().add_(1).clamp_(min=0).cpu().numpy()


def _complete_linkage(distance: np.ndarray, clusters: int) -> np.ndarray:
    """Cluster labels, int [out]: exactly ``clusters`` of them, whatever the ties."""
    rows = len(distance)
    merges = linkage(squareform(distance, checks=False), "complete")[: rows - clusters, :2].astype(np.int64)
    parents = np.repeat(np.arange(rows, rows + len(merges)), 2)
    nodes = rows + len(merges)
    tree = coo_array((np.ones(len(parents), bool), (merges.ravel(), parents)), shape=(nodes, nodes))
    label = connected_components(tree, directed=False)[1]
    return np.asarray(label[:rows])
