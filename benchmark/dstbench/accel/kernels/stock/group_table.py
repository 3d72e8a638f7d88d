"""Row groups of equal width, as batched operators need them: which input channel and which stored row fill a slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dstbench.accel.kernels.groups import Groups
from dstbench.accel.kernels.stock import gather

Gradients = tuple[Tensor | None, Tensor | None]
"""Of an input and of a weight; None: not wanted."""


@dataclass(frozen=True)
class GroupTable:
    """G groups of B lanes (rows of the weight) and K slots (input channels).

    Ragged groups are padded to the widest: a slot too many reads channel 0 and weighs 0.
    """

    groups: int  # G
    lanes: int  # B
    slots: int  # K, at least 1
    perm: Tensor  # int64 [out]: the weight's row in each lane, groups one after another; the last may lack lanes
    inverse: Tensor  # int64 [out]: the lane of each row
    channels: Tensor  # int64 [G * K]: what each slot reads
    ordered: bool  # whether every row has the lane of its number, as in a layer of one group
    stored: Tensor | None  # int64 [G * K * taps]: each slot's rows of the stored values, one past them: none.
    # None: the stored values fill the slots as they are

    def fill(self, values: Tensor) -> Tensor:
        """Stored values, [S, B], slot by slot: [G, K * taps, B]; differentiable."""
        if self.stored is not None:
            values = torch.cat([values, values.new_zeros(1, self.lanes)]).index_select(0, self.stored)
        return values.view(self.groups, -1, self.lanes)

    def filters(self, values: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """Stored values, [S, B], as the weight of a grouped convolution: [G * B, K, *kernel]; differentiable."""
        by_slot = self.fill(values).view(self.groups, self.slots, *kernel, self.lanes)
        return by_slot.movedim(-1, 1).flatten(0, 1)

    def to_lanes(self, rows: Tensor) -> Tensor:
        """Move axis 1 of [n, out, ...] or [n, out] into the order of lanes, 0 in missing ones: [n, G * B, ...]."""
        missing = self.groups * self.lanes - len(self.perm)
        if not missing:
            return rows if self.ordered else gather.take(rows, self.perm)
        lanes = gather.take(rows, torch.cat([self.perm, self.perm.new_zeros(missing)]))
        lanes[:, len(self.perm) :] = 0
        return lanes

    def from_lanes(self, lanes: Tensor, out: Tensor) -> None:
        """Write lanes, [n, G * B, ...], to the rows they are, [n, out, ...]."""
        if self.ordered:
            out.copy_(lanes[:, : len(self.perm)])
        else:
            gather.take(lanes, self.inverse, out)

    def bias_of(self, bias: Tensor | None) -> Tensor | None:
        """A bias, [out] or None, lane by lane: [G, B]."""
        return None if bias is None else self.to_lanes(bias[None]).view(self.groups, self.lanes)

    def channels_of(self, groups: slice) -> Tensor:
        """What the slots of a run of groups read."""
        return self.channels[groups.start * self.slots : groups.stop * self.slots]


def group_table(layout: Groups, block_size: int, taps: int) -> GroupTable:
    """The table of a layout: stored rows are its columns, ``taps`` for each, in order."""
    counts = layout.ptr.diff()
    slots = max(int(counts.max()), 1)
    exists = torch.arange(slots, device=counts.device) < counts[:, None]  # [G, K]
    channels = torch.zeros(exists.shape, dtype=torch.int64, device=counts.device)
    channels[exists] = layout.cols.long()
    stored = None
    if not bool(exists.all()):
        total = len(layout.cols) * taps
        row = torch.full((*exists.shape, taps), total, device=counts.device)
        row[exists] = torch.arange(total, device=counts.device).view(-1, taps)
        stored = row.flatten()
    inverse = layout.perm.argsort()
    ordered = torch.equal(inverse, torch.arange(len(inverse), device=inverse.device))
    return GroupTable(
        len(counts), block_size, slots, layout.perm, inverse, channels.flatten(), ordered, stored
    )
