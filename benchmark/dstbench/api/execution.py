"""How a structure makes its layers really faster: executions, which compute from the stored active weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dstbench.api.strategies import LayerInfo


@dataclass(frozen=True)
class LayerCall:
    """What one layer computes, and in which circumstances: all that an execution must reproduce.

    A convolution pads with zeros; layers that don't are never offered.
    """

    info: LayerInfo
    stride: tuple[int, ...] = ()  # one per spatial dimension, as the next two; () for a linear layer
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32  # what products are computed in: autocast's, where that is on
    training: bool = True  # whether gradients are wanted


class Execution(Protocol):
    """One layer's product for one mask. A structure's ``accelerate`` offers some; a dispatcher measures and picks.

    What is trained and stored is ``values``: the entries of the weight at ``positions``, in the order that suits
    the structure's kernels. All executions that a structure offers for a mask store in the same order, so that
    another one can take over. Values at padding (-1) are zero and stay zero: their gradient is.
    """

    @property
    def path(self) -> str:
        """What ran, as a leaderboard names it: "shuffled-block bmm"."""
        ...

    @property
    def positions(self) -> Tensor:
        """int64, any shape: where stored values stand in the flattened weight, each active one once; -1: padding."""
        ...

    def pack(self, values: Tensor) -> Tensor:
        """``values`` as the kernel wants them; differentiable. Training packs at every call, inference once."""
        ...

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output for x, [batch, ..., in] or [batch, in, *space]; differentiable in all three.

        dtype: that of x and packed, which agree. bias: [out] or None.
        """
        ...
