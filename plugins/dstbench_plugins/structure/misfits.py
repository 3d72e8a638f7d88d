"""Why structures of output rows can't carry some layers."""

from __future__ import annotations

from dstbench.api import LayerInfo


def transposed(layer: LayerInfo) -> str | None:
    """The reason for a transposed convolution; None for any other layer."""
    return "the rows of a transposed convolution are its inputs" if layer.kind == "conv_transpose" else None
