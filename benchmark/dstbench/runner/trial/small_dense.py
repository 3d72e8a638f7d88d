"""The small-dense control: a narrower dense model with as many parameters as a sparse one has active."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dstbench.api import ModelFactory
from dstbench.errors import BadInput
from dstbench.runner.matrix.widths import why_not

_SMALLEST = 2.0**-12  # narrower than this every layer of any real model has one channel
_LARGEST = 2.0**6
_TOLERANCE = 2.0**-12  # relative; the channel counts of layers up to 2048 wide differ by more


def narrow(
    factory: ModelFactory, num_classes: int, input_shape: tuple[int, ...], parameters: int
) -> nn.Module:
    """Build ``factory``'s model at the ``width`` whose parameter count is nearest to ``parameters``.

    All parameters count, biases and norms included. Channels are whole numbers, so the count is met as
    nearly as they allow; between two equally near widths the narrower one is taken. The model's own random
    draws start from the caller's generator state, as if it had been built directly. Raises BadInput, naming
    the model, where its factory takes no ``width``.
    """
    if parameters < 1:
        raise BadInput(f"parameters: expected at least 1, got {parameters}")
    if reason := why_not(factory):
        raise BadInput(reason)

    def build(width: float) -> nn.Module:
        return factory(num_classes=num_classes, input_shape=input_shape, width=width)

    def count(width: float) -> int:
        with torch.random.fork_rng(devices=[]):
            return sum(parameter.numel() for parameter in build(width).parameters())

    return build(_nearest_width(count, parameters))


def _nearest_width(count: Callable[[float], int], parameters: int) -> float:
    """Bisect ``count``, which never falls as the width rises, for the width nearest to ``parameters``."""
    low, high = _SMALLEST, 1.0
    while count(high) < parameters and high < _LARGEST:
        low, high = high, 2 * high
    while high / low > 1 + _TOLERANCE:
        middle = (low * high) ** 0.5
        if count(middle) < parameters:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda width: abs(count(width) - parameters))
