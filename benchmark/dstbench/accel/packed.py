"""A layer at inference, whose weight is kept as its execution's kernel wants it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.api import Execution, LayerCall
from dstbench.core.network.eager import eagerly
from dstbench.core.storage.condensed_layer import execute, gather, have_called

__all__ = ["Packed"]


class Packed(nn.Module):
    """A layer at inference: an execution, with its weight as its kernel wants it. It takes what the layer takes."""

    def __init__(self, layer: nn.Linear | _ConvNd, call: LayerCall, execution: Execution) -> None:
        super().__init__()
        self.call, self.execution = call, execution
        with torch.no_grad():
            packed = execution.pack(gather(layer.weight.detach(), execution.positions))
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        have_called(self)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output. Raises StrategyError for a shape that the layer doesn't take."""
        out: Tensor = self._run(input)
        return out

    @eagerly
    def _run(self, x: Tensor) -> Tensor:
        return execute(self.execution, self.call, x, self.get_buffer("weight"), self._buffers["bias"])

    def extra_repr(self) -> str:
        """The execution's path, for the module's repr."""
        return self.execution.path
