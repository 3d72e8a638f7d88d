"""What a training costs by the published closed form, which meters and plans are checked against."""

from __future__ import annotations

from math import inf, isinf


def published_cost(sparse: float, dense: float, between: float = inf) -> float:
    """Training cost of one sample by RigL's appendix H: (3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1).

    sparse, dense: inference FLOPs f_S and f_D. between: ΔT, the sparse steps between two that need the dense
    gradient: 100 for RigL; without end for static training, SET and MEST, 3 f_S; 0 for SNFS, 2 f_S + f_D.
    Gradual pruning and MEST EM&S cost the mean of 3 f_S over their densities.
    """
    return 3 * sparse if isinf(between) else (3 * sparse * between + 2 * sparse + dense) / (between + 1)
