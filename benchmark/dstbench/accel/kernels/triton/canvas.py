"""Activations as the kernels of row groups read and write them.

A *canvas* is contiguous [images, channels, pixels, lanes]. Feature-major there is one image, and the batch
makes the lanes: [channels, pixels, batch]; a linear layer's rows are lanes likewise. In NCHW there is one lane.
A pointwise convolution has no use for pixels: they are lanes too.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from dstbench.accel.kernels.triton.plan import Geometry, Plan, geometry, is_pointwise, out_size
from dstbench.api import StrategyError

__all__ = ["View", "kernels", "view"]

Format = Literal["feature-major", "channels-last", "contiguous"]
_SIDE = 64  # of the square that one program turns round


def kernels() -> Any:
    """The kernels' module; Triton is imported here."""
    return importlib.import_module("dstbench.accel.kernels.triton.kernels")


@dataclass(frozen=True)
class View:
    """How the input and the output of one call are canvases. Shapes are the tensors' own."""

    plan: Plan
    tables: Geometry
    feature_major: bool
    format: Format  # of the input in memory; what goes back has the same
    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    images: int
    batch: int
    lanes: int

    @property
    def spatial(self) -> bool:
        """Whether tensors are [batch, channels, *space], not [..., channels]."""
        return bool(self.plan.call.stride)

    def points(self, pixels: int) -> int:
        """Points of a canvas that has so many pixels."""
        return self.images * pixels * self.lanes

    def input(self, x: Tensor) -> Tensor:
        """The input's canvas: a view of it where it is one in memory."""
        return self._canvas(x, self.tables.pixels)

    def gradient(self, dy: Tensor) -> Tensor:
        """The canvas of the output's gradient."""
        return self._canvas(dy, self.tables.out_pixels)

    def output(self, canvas: Tensor) -> Tensor:
        """The output that a canvas holds, in the input's memory format; from NCHW never feature-major."""
        shape = self.out_shape
        if not self.feature_major:
            view = canvas.view(shape)
            last = self.format == "channels-last"
            return view.movedim(1, -1).contiguous().movedim(-1, 1) if last else view
        if not self.spatial:
            flat = canvas.view(shape[-1], self.batch)
            return (flat.t() if self.format == "feature-major" else flip(flat)).view(shape)
        channels, size = shape[1], shape[2:]
        if self.format == "feature-major":
            return canvas.view(channels, *size, self.batch).movedim(-1, 0)
        if self.format == "channels-last":
            turned = flip(canvas.view(channels, math.prod(size), self.batch))
            return turned.view(self.batch, *size, channels).movedim(-1, 1)
        return flip(canvas.view(channels * math.prod(size), self.batch)).view(shape)

    def empty_input(self, like: Tensor) -> Tensor:
        """A tensor for the input's gradient, in the input's memory format."""
        first, *rest = self.shape
        if self.format == "contiguous":
            return like.new_empty(self.shape)
        if self.format == "channels-last":
            return like.new_empty(first, *rest[1:], rest[0]).movedim(-1, 1)
        if self.spatial:
            return like.new_empty(*rest, first).movedim(-1, 0)
        return like.new_empty(rest[-1], *self.shape[:-1]).movedim(0, -1)

    def strides(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of image, channel, pixel and lane in a tensor of the input's shape that has a memory format."""
        if self.spatial:
            batch, channel, pixel = x.stride(0), x.stride(1), x.stride(-1)
        else:
            batch, channel, pixel = (x.stride(-2) if x.dim() > 1 else 0), x.stride(-1), 0
        return (0, channel, pixel, batch) if self.feature_major else (batch, channel, pixel, 0)

    def _canvas(self, x: Tensor, pixels: int) -> Tensor:
        channels = x.shape[1 if self.spatial else -1]
        x = _feature_major(x, self.spatial) if self.feature_major else x.contiguous()
        return x.view(self.images, channels, pixels, self.lanes)


def view(plan: Plan, x: Tensor, feature_major: bool) -> View:
    """How a call with this input is seen. Raises StrategyError where an offset wouldn't fit 32 bits."""
    call, shape = plan.call, tuple(x.shape)
    size = shape[2:] if call.stride else ()
    leading = shape[:1] if call.stride else shape[:-1]
    out = call.info.shape[0]
    out_shape = (*leading, out, *out_size(call, size)) if call.stride else (*leading, out)
    if max(math.prod(shape), math.prod(out_shape)) >= 2**31:
        raise StrategyError(
            f"layer {call.info.name!r}: expected an input and an output of less than 2^31 elements, "
            f"got {shape} and {out_shape}"
        )
    batch = math.prod(leading)
    images, lanes = (1, batch) if feature_major else (batch, 1)
    if is_pointwise(call):
        lanes *= math.prod(size)
    form = _format(x, bool(call.stride))
    return View(plan, geometry(plan, size), feature_major, form, shape, out_shape, images, batch, lanes)


def flip(x: Tensor) -> Tensor:
    """[a, b] -> [b, a], or [a, m, b] -> [b, m, a], contiguous: copied unless the memory stays the same."""
    x = x.contiguous()
    first, middle, last = x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]
    turned = (last, *x.shape[1:-1], first)
    if x.numel() == 0 or (middle == 1 and 1 in (first, last)):
        return x.view(turned)
    flipped = x.new_empty(turned)
    programs = -(-first // _SIDE) * -(-last // _SIDE) * middle
    kernels().flip[(programs,)](x, flipped, first, middle, last, N=_SIDE)
    return flipped


def _format(x: Tensor, spatial: bool) -> Format:
    """The memory format of a tensor; one that has none of them counts as contiguous."""
    if x.is_contiguous():
        return "contiguous"
    if x.movedim(0, -1).is_contiguous() if spatial else x.movedim(-1, 0).is_contiguous():
        return "feature-major"
    return "channels-last" if spatial and x.movedim(1, -1).is_contiguous() else "contiguous"


def _feature_major(x: Tensor, spatial: bool) -> Tensor:
    """[channels, *space, batch] or [channels, *leading], contiguous: a view of what is so in memory."""
    turned = x.movedim(0, -1) if spatial else x.movedim(-1, 0)
    if turned.is_contiguous():
        return turned
    if not spatial:
        return flip(x.reshape(-1, x.shape[-1]))
    if _format(x, spatial) == "channels-last":
        return flip(x.movedim(1, -1).reshape(x.shape[0], -1, x.shape[1]))
    return flip(x.reshape(x.shape[0], -1))
