"""What meters, plans and counts are checked against: the published closed form, and torch's own counter."""

from __future__ import annotations

from contextlib import nullcontext
from math import inf, isinf

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def published_cost(sparse: float, dense: float, between: float = inf) -> float:
    """Training cost of one sample by RigL's appendix H: (3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1).

    sparse, dense: inference FLOPs f_S and f_D. between: ΔT, the sparse steps between two that need the dense
    gradient: 100 for RigL; without end for static training, SET and MEST, 3 f_S; 0 for SNFS, 2 f_S + f_D.
    Gradual pruning and MEST EM&S cost the mean of 3 f_S over their densities.
    """
    return 3 * sparse if isinf(between) else (3 * sparse * between + 2 * sparse + dense) / (between + 1)


def torchs_macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates of one image by operator, as torch's own counter has them."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = nullcontext()  # it names modules, and can't in some models
    counter.mod_tracker.parents = {"Global"}
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    per_operator = counter.get_flop_counts().get("Global", {})
    return {str(operator).removeprefix("aten."): flops // 2 for operator, flops in per_operator.items()}
