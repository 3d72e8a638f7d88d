"""Products of row groups on pixels, [p, channels]: 1x1 convolutions in channels-last images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dstbench.accel.kernels.stock.group_table import Gradients, GroupTable

_CHUNK = 1 << 19  # elements of intermediate results at a time


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable, out: Tensor) -> None:
    """[p, in] with weights [G, K, B] and biases [G, B] to ``out``, [p, out]."""
    for chunk in _chunks(x, table):
        product = torch.bmm(_gathered(x[chunk], table), weight)  # [G, p, B]
        lanes = product if bias is None else product.add_(bias[:, None])
        table.from_lanes(lanes.transpose(0, 1).flatten(1), out[chunk])


def differentiate(x: Tensor, weight: Tensor, gradient: Tensor, table: GroupTable, wanted: Gradients) -> None:
    """Add the gradients that ``gradient``, [p, out], gives, to those that are wanted."""
    grad_x, grad_weight = wanted
    for chunk in _chunks(x, table):
        lanes = table.to_lanes(gradient[chunk]).view(-1, table.groups, table.lanes).transpose(0, 1)
        if grad_weight is not None:
            grad_weight.baddbmm_(_gathered(x[chunk], table).transpose(1, 2), lanes)
        if grad_x is not None:
            back = torch.bmm(lanes, weight.transpose(1, 2)).transpose(0, 1).flatten(1)  # [p, G * K]
            grad_x[chunk].scatter_add_(1, table.channels.expand(len(back), -1), back)


def _gathered(x: Tensor, table: GroupTable) -> Tensor:
    """The input of each group's slots: [G, p, K]."""
    gathered = x.gather(1, table.channels.expand(len(x), -1))
    return gathered.view(len(x), table.groups, table.slots).transpose(0, 1)


def _chunks(x: Tensor, table: GroupTable) -> Iterator[slice]:
    """Runs of pixels."""
    pixels = max(1, _CHUNK // (table.groups * (table.slots + table.lanes)))
    for start in range(0, len(x), pixels):
        yield slice(start, start + pixels)
