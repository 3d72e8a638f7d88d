"""Products of row groups on feature-major input, [n, channels, p]: linear layers, and 1x1 convolutions in NCHW.

A gathered channel is a copied row, and so is an output row put back in its place. The gathered input would be
density · out / B times the input: it is made in chunks that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dstbench.accel.kernels.stock import gather
from dstbench.accel.kernels.stock.group_table import Gradients, GroupTable

_CHUNK = 1 << 19  # elements gathered at a time


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable, out: Tensor) -> None:
    """[n, in, p] with weights [G, K, B] and biases [G, B] to ``out``, [n, out, p]."""
    stacked = _stacked(weight, x, table)
    for images, whole in _chunks(x, table):
        n = len(x[images])
        lanes = x.new_empty(n, table.groups, table.lanes, x.shape[2])
        for groups in whole:
            product = stacked[:n, groups].flatten(0, 1).transpose(1, 2)
            # a view: there is one image, or all groups are in the run
            into = lanes[:, groups].view(-1, table.lanes, x.shape[2])
            gathered = _gathered(x[images], table, groups)
            if bias is None:
                torch.bmm(product, gathered, out=into)
            else:
                start = bias[groups].expand(n, -1, -1).reshape(-1, table.lanes, 1)
                torch.baddbmm(start, product, gathered, out=into)
        table.from_lanes(lanes.flatten(1, 2), out[images])


def differentiate(x: Tensor, weight: Tensor, gradient: Tensor, table: GroupTable, wanted: Gradients) -> None:
    """Add the gradients that ``gradient``, [n, out, p], gives, to those that are wanted."""
    grad_x, grad_weight = wanted
    stacked = _stacked(weight, x, table)
    for images, whole in _chunks(x, table):
        n = len(x[images])
        lanes = table.to_lanes(gradient[images]).view(n, table.groups, table.lanes, -1)
        for groups in whole:
            mine = lanes[:, groups].flatten(0, 1)  # [n * g, B, p]
            if grad_weight is not None:
                by_image = torch.bmm(_gathered(x[images], table, groups), mine.transpose(1, 2))
                grad_weight[groups] += by_image.view(n, -1, table.slots, table.lanes).sum(0)
            if grad_x is not None:
                back = torch.bmm(stacked[:n, groups].flatten(0, 1), mine).view(n, -1, x.shape[2])
                gather.add(grad_x[images], table.channels_of(groups), back)


def _gathered(x: Tensor, table: GroupTable, groups: slice) -> Tensor:
    """The input of each group's slots: [n * g, K, p]."""
    return gather.take(x, table.channels_of(groups)).view(-1, table.slots, x.shape[2])


def _stacked(weight: Tensor, x: Tensor, table: GroupTable) -> Tensor:
    """The weight for each image of a chunk: [images, G, K, B]."""
    return weight.expand(_images(x, table), -1, -1, -1).contiguous()


def _images(x: Tensor, table: GroupTable) -> int:
    """How many images make a chunk."""
    return max(1, min(len(x), _CHUNK // (table.slots * x.shape[2] * table.groups)))


def _chunks(x: Tensor, table: GroupTable) -> Iterator[tuple[slice, list[slice]]]:
    """Runs of images with, for each, the runs of groups whose gathered input is about a chunk."""
    images = _images(x, table)
    groups = max(1, _CHUNK // (table.slots * x.shape[2]))
    whole = [slice(start, min(start + groups, table.groups)) for start in range(0, table.groups, groups)]
    for start in range(0, len(x), images):
        yield slice(start, start + images), whole
