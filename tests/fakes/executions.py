"""A structure with an execution of its own: correct, and no faster than masked dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dstbench.api import LayerCall
from dstbench.core.engine.structures import Unstructured


@dataclass(frozen=True)
class Scattered:
    """An execution that puts the stored values back into a dense weight: correct, and no faster."""

    call: LayerCall
    positions: Tensor
    path: str = "scattered"

    def pack(self, values: Tensor) -> Tensor:
        flat = values.new_zeros(self.call.info.numel).index_put((self.positions.flatten(),), values.flatten())
        return flat.view(self.call.info.shape)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        if not self.call.stride:
            return nn.functional.linear(x, packed, bias)
        convolve = (nn.functional.conv1d, nn.functional.conv2d)[len(self.call.stride) - 1]
        return convolve(x, packed, bias, self.call.stride, self.call.padding, self.call.dilation)


@dataclass(frozen=True)
class Offering(Unstructured):
    """Unstructured, with a way to run from active weights alone."""

    paths: tuple[str, ...] = ("scattered",)

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Scattered]:
        return [Scattered(call, mask.flatten().nonzero().flatten(), path) for path in self.paths]
