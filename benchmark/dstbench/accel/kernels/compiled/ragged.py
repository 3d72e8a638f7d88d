"""Row groups with ragged column lists on a CPU: compiled kernels for what stock operators can't do well.

An *entry* is one (in-channel, tap) pair; a group of rows has a list of them, as long as it likes. Linear layers and
convolutions of one or two dimensions share the kernels of ``ragged.cpp``, float32 only.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dstbench.accel.kernels.compiled.build import NotCompiled, load
from dstbench.accel.kernels.groups import Columns, Groups, by_entry, layout, storage_order
from dstbench.accel.kernels.stock import workspace
from dstbench.api import Execution, LayerCall, StrategyError
from dstbench.core.storage.condensed_layer import scatter

__all__ = ["RaggedExecution", "RaggedLayer", "chunk_width", "offered", "ragged_executions"]

_VECTOR = 16  # floats in the widest vector
_SHAPES = 64  # of inputs that an execution remembers
_RUN = 32  # floats that a kernel likes to meet in one run; longer ones leave less of a chunk in the nearest caches
_RUN_BACK = 64  # of a backward pass, which reads and writes all of a weight's gradient for each chunk


def ragged_executions(
    call: LayerCall, mask: Tensor, block_size: int, columns: Columns = "entry"
) -> list[Execution]:
    """What computes a shuffled-block mask, bool [*w], here: one execution, or none where ``offered`` says why."""
    if offered(call) is not None:
        return []
    groups = by_entry(layout(mask, block_size, columns), call.info.shape, columns)
    positions = storage_order(groups, call.info.shape, block_size)
    return [RaggedExecution("shuffled-block compiled", positions, call, groups, block_size)]


def offered(call: LayerCall) -> str | None:
    """Why the kernels can't run a layer, or None where they can."""
    if call.device.type != "cpu" or call.dtype != torch.float32:
        return f"float32 on a CPU only, not {call.dtype} on {call.device}"
    if call.groups != 1 or len(call.stride) > 2:
        return "linear layers, and convolutions of one group and of at most two dimensions, only"
    try:
        load("ragged")
    except NotCompiled as error:
        return str(error)
    return None


@dataclass(frozen=True)
class RaggedExecution:
    """The product of one layer's row groups, whose columns are entries."""

    path: str
    positions: Tensor  # int64, whatever shape holds entries x B values
    call: LayerCall
    groups: Groups
    block_size: int
    _problems: dict[tuple[tuple[int, ...], int], _Problem] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def pack(self, values: Tensor) -> Tensor:
        """The stored values as they are: the kernels read them in the order of storage."""
        return values

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output. Raises StrategyError where an input isn't what the kernels may read.

        A model that was cast since is computed densely, with a warning: the kernels know float32 alone.
        """
        inputs, dimensions = self.call.info.shape[1], len(self.call.stride)
        if _readable(x) and _readable(packed) and (bias is None or _readable(bias)):
            channel = 1 if dimensions else x.dim() - 1
            fits = (not dimensions or x.dim() == dimensions + 2) and x.shape[channel] == inputs
            if fits and packed.numel() == self.positions.numel():
                out: Tensor = _Product.apply(x, packed, bias, self)
                return out
        return self._otherwise(x, packed, bias)

    def _otherwise(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """What can't be computed as it is."""
        if x.device.type == "cpu" and x.dtype == packed.dtype != torch.float32:
            return self._dense(x, packed, bias)
        for name, tensor in (("input", x), ("weight", packed), ("bias", bias)):
            if tensor is not None and (tensor.dtype, tensor.device.type) != (torch.float32, "cpu"):
                raise self._wrong(f"a float32 {name} on the CPU", f"{tensor.dtype} on {tensor.device}")
        if packed.numel() != self.positions.numel():
            raise self._wrong(f"{self.positions.numel()} weights", f"{packed.numel()}")
        inputs, dimensions = self.call.info.shape[1], len(self.call.stride)
        shape = ["batch", inputs, *["*"] * dimensions] if dimensions else ["...", inputs]
        raise self._wrong(f"an input [{', '.join(map(str, shape))}]", f"{list(x.shape)}")

    def _dense(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        name, call = self.call.info.name, self.call
        warnings.warn(
            f"layer {name!r} runs masked dense in {x.dtype}: {self.path!r} computes in float32 only",
            stacklevel=2,
        )
        weight = scatter(packed, self.positions, call.info.shape)
        if not call.stride:
            return functional.linear(x, weight, bias)
        convolve = (functional.conv1d, functional.conv2d)[len(call.stride) - 1]
        out: Tensor = convolve(x, weight, bias, call.stride, call.padding, call.dilation)
        return out

    def _wrong(self, expected: str, got: str) -> StrategyError:
        return StrategyError(f"layer {self.call.info.name!r}: expected {expected}, got {got}")

    def problem(self, x: Tensor) -> _Problem:
        """The layer for inputs like x: [..., in], [batch, in, width] or [batch, in, height, width].

        It is kept: a kernel leaves no Python behind in the caches, so that making it anew takes as long as many a
        product.
        """
        key = x.shape, torch.get_num_threads()
        known = self._problems.get(key)
        if known is None:
            if len(self._problems) >= _SHAPES:
                self._problems.clear()
            known = self._problems[key] = self._made(*key)
        return known

    def _made(self, shape: tuple[int, ...], threads: int) -> _Problem:
        out, inputs, dimensions = *self.call.info.shape[:2], len(self.call.stride)
        space = _both(shape[2:] if dimensions else (), 1)
        layer = self.layer(space)
        outer = layer.out_height, layer.out_width
        images = prod(shape) // (inputs * prod(space))
        width, back = (chunk_width(images, prod(outer), threads, run) for run in (_RUN, _RUN_BACK))
        made = (shape[0], out, *outer[2 - dimensions :]) if dimensions else (*shape[:-1], out)
        return _Problem(layer, ctypes.addressof(layer), images, width, back, threads, made)

    def layer(self, space: Sequence[int] = (1, 1)) -> RaggedLayer:
        """What kernels are told of the layer, for inputs of this height and width."""
        call, groups = self.call, self.groups
        out, inputs, *kernel = call.info.shape
        taps, stride = _both(kernel, 1), _both(call.stride, 1)
        padding, dilation = _both(call.padding, 0), _both(call.dilation, 1)
        outer = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(space, padding, dilation, taps, stride, strict=True)
        ]
        numbers = [inputs, *space, out, *outer, *taps, *stride, *padding, *dilation]
        pointers = map(Tensor.data_ptr, (groups.ptr, groups.perm, groups.cols))
        return RaggedLayer(*numbers, len(groups.ptr) - 1, self.block_size, *pointers)

    def __getstate__(self) -> dict[str, Any]:
        """Without pointers: of a copy these are others."""
        return {**self.__dict__, "_problems": {}}


def _both(sizes: Sequence[int], default: int) -> list[int]:
    """Numbers for height and width, where there may be fewer dimensions."""
    return [default] * (2 - len(sizes)) + list(sizes)


_NUMBERS = (
    *("in", "height", "width", "out", "out_height", "out_width"),
    *("kernel_height", "kernel_width", "stride_height", "stride_width"),
    *("padding_height", "padding_width", "dilation_height", "dilation_width"),
    *("groups", "block"),
)


class RaggedLayer(ctypes.Structure):
    """``Layer`` of ragged.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in ("ptr", "perm", "cols")),
    )


@dataclass(frozen=True)
class _Problem:
    layer: RaggedLayer
    address: int  # the layer's
    images: int
    width: int  # images of a chunk
    width_back: int  # of a backward pass
    threads: int
    shape: tuple[int, ...]  # of the output


def chunk_width(images: int, pixels: int, threads: int, run: int = _RUN) -> int:
    """How many images stand side by side: one where its pixels make good runs, else whole vectors of images."""
    if pixels >= _RUN and pixels / (-(-pixels // _VECTOR) * _VECTOR) > 0.8:
        return 1
    share = -(-images // threads)  # what every thread gets, if that fills its vectors
    wanted = min(share, -(-run // pixels))
    return max(1, -(-wanted // _VECTOR)) * _VECTOR


def _readable(tensor: Tensor) -> bool:
    return tensor.dtype is torch.float32 and tensor.is_cpu


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, execution: RaggedExecution
    ) -> Tensor:
        x, values, shift = x.contiguous(), values.contiguous(), None if bias is None else bias.contiguous()
        ctx.save_for_backward(x, values)
        ctx.linear, ctx.problem = not execution.call.stride, (problem := execution.problem(x))
        out = workspace.empty(problem.shape, torch.float32)
        _forward()(
            problem.address, x.data_ptr(), problem.images, problem.width,
            values.data_ptr(), None if shift is None else shift.data_ptr(), out.data_ptr(), problem.threads,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        wanted, problem, gradient = ctx.needs_input_grad, ctx.problem, gradient.contiguous()
        dx = workspace.empty(x.shape, torch.float32) if wanted[0] else None
        dw = workspace.empty(values.shape, torch.float32) if wanted[1] else None
        db = None
        if wanted[2] and ctx.linear:  # of linear layers while their gradient is at hand
            db = gradient.new_empty(gradient.shape[-1])
        if dx is not None or dw is not None or db is not None:
            _backward()(
                problem.address, x.data_ptr(), gradient.data_ptr(), problem.images, problem.width_back,
                values.data_ptr(), *(None if made is None else made.data_ptr() for made in (dx, dw, db)),
                problem.threads,
            )  # fmt: skip
        if wanted[2] and not ctx.linear:
            db = gradient.sum([d for d in range(gradient.dim()) if d != 1])
        return dx, dw, db, None


@functools.cache
def _forward() -> Callable[..., None]:
    return _kernel("forward", 1, 3)


@functools.cache
def _backward() -> Callable[..., None]:
    return _kernel("backward", 2, 4)


def _kernel(name: str, before: int, after: int) -> Callable[..., None]:
    """A kernel of ragged.cpp that takes so many tensors before its sizes, and behind them: float32, contiguous."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernel = getattr(load("ragged"), name)
    kernel.restype = None
    kernel.argtypes = [pointer, *[pointer] * before, number, number, *[pointer] * after, ctypes.c_int]
    return cast("Callable[..., None]", kernel)
