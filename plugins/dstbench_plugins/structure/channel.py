"""Channel structure."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.api import LayerInfo


@dataclass(frozen=True)
class Channel:
    """A unit is an output row: a convolution's channel or a hidden linear unit. The classifier's rows are
    classes, so it stays unstructured."""

    whole_rows: ClassVar[bool] = True

    def units(self, layer: LayerInfo) -> Tensor:
        """The output row of every weight."""
        rows = torch.arange(layer.shape[0])
        return rows.view(-1, *[1] * (len(layer.shape) - 1)).expand(layer.shape)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose output rows aren't channels."""
        if layer.classifier:
            return "its output rows are classes"
        return "its output channels lie in the second dimension" if layer.kind == "conv_transpose" else None
