"""Why structures and scores that see a layer as a matrix can't carry some layers."""

from __future__ import annotations

from dstbench.api import LayerInfo


def transposed(layer: LayerInfo) -> str | None:
    """The reason for a transposed convolution; None for any other layer."""
    return "the rows of a transposed convolution are its inputs" if layer.kind == "conv_transpose" else None


def not_bipartite(layer: LayerInfo, *, convolutions: bool = True) -> str | None:
    """The reason for a layer without links between inputs and outputs: a depthwise convolution. Unless
    ``convolutions`` are welcome, as matrices [out, in · taps], any convolution has one."""
    if reason := transposed(layer):
        return reason
    if layer.kind == "conv" and not convolutions:
        return "a convolution is no network of links"
    if layer.kind == "conv" and layer.shape[1] == 1:
        return "a depthwise convolution links no inputs with outputs"
    return None
