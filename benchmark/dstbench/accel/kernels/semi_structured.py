"""2:4 masks on GPUs whose tensor cores skip the zeros: linear layers at inference, through PyTorch's own type.

Not exercised where there is no such GPU; PyTorch's packing and product are relied on as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from dstbench.api import Execution, LayerCall
from dstbench.core.storage.condensed_layer import scatter

__all__ = ["semi_structured_executions"]

_ROWS, _INPUTS = 32, 64  # multiples that PyTorch's packing asks for in half precision


def semi_structured_executions(call: LayerCall, mask: Tensor) -> list[Execution]:
    """What computes a mask with at most 2 of every 4 inputs, bool [out, in], from its active weights.

    Training, convolutions, float32 and other devices are left to masked dense.
    """
    rows, inputs, *kernel = mask.shape
    if call.training or kernel or call.device.type != "cuda" or rows % _ROWS or inputs % _INPUTS:
        return []
    if call.dtype not in (torch.float16, torch.bfloat16) or not _skips_zeros(call.device):
        return []
    return [SemiStructured("semi-structured 2:4", mask.flatten().nonzero()[:, 0], call)]


def _skips_zeros(device: torch.device) -> bool:
    """Whether a GPU has sparse tensor cores: NVIDIA's from Ampere on."""
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


@dataclass(frozen=True)
class SemiStructured:
    """A linear layer's product in PyTorch's semi-structured form."""

    path: str
    positions: Tensor  # int64 [active]
    call: LayerCall

    def pack(self, values: Tensor) -> Tensor:
        """The weight [out, in], compressed."""
        packed: Tensor = torch.sparse.to_sparse_semi_structured(
            scatter(values, self.positions, self.call.info.shape)
        )
        return packed

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""
        return linear(x, packed, bias)
