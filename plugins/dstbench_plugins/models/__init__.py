"""Models that ship.

Every model takes any number of classes and, where channels allow it, a ``width`` that multiplies all of them.
All end in logits: train with cross-entropy. Reference code of sparse training often ends in log-softmax and
trains with the negative log-likelihood, which is the same loss.
"""

from __future__ import annotations

from dstbench.errors import BadInput
from dstbench_plugins.checks import check_integer


def widen(channels: int, width: float) -> int:
    """``channels`` times ``width``, to the nearest integer, at least 1. Raises BadInput where width <= 0."""
    if not 0 < width < float("inf"):
        raise BadInput(f"width: expected a number greater than 0, got {width!r}")
    return max(1, round(channels * width))


def image_shape(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of an input. Raises BadInput, naming ``model``, where the input is no image."""
    if len(input_shape) != 3:
        raise BadInput(
            f"{model}: expected images of shape [channels, height, width], got an input of {list(input_shape)}"
        )
    return input_shape


def at_least(model: str, pixels: int, input_shape: tuple[int, int, int]) -> None:
    """Raise BadInput, naming ``model``, where an image has fewer than ``pixels`` pixels in a direction."""
    _, height, across = image_shape(model, input_shape)
    if min(height, across) < pixels:
        raise BadInput(
            f"{model}: expected images of at least {pixels}x{pixels} pixels, got {height}x{across}"
        )


def sequence_length(model: str, input_shape: tuple[int, ...]) -> int:
    """The tokens of an input. Raises BadInput, naming ``model``, where the input isn't one of tokens."""
    if len(input_shape) != 1 or input_shape[0] < 1:
        raise BadInput(f"{model}: expected token ids of shape [tokens], got an input of {list(input_shape)}")
    return input_shape[0]


def widen_heads(model: str, dim: int, heads: int, width: float, multiple: int = 1) -> int:
    """``dim`` times ``width``, to the nearest multiple of ``heads`` times ``multiple``, at least one.

    Raises BadInput, naming ``model``, where ``dim`` isn't such a multiple itself.
    """
    check_integer("heads", heads)
    step = heads * multiple
    if dim < 1 or dim % step:
        times = f" times {multiple}" if multiple > 1 else ""
        raise BadInput(f"{model}: dim: expected a multiple of heads ({heads}){times}, got {dim}")
    return widen(dim // step, width) * step
