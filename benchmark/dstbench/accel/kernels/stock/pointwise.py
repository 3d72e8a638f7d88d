"""Linear layers and 1x1 convolutions of row groups: batched products of gathered channels, in any memory format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstbench.accel.kernels.stock import channels_last, feature_major, gather, workspace
from dstbench.accel.kernels.stock.group_table import Gradients, GroupTable


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer. Its output is feature-major in memory, as the next such layer wants its input."""

    path: str
    positions: Tensor
    table: GroupTable

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G, K, B]."""
        return self.table.fill(values)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, ..., in] -> [batch, ..., out]."""
        flat = x.flatten(0, -2).t()[None].contiguous()
        out: Tensor = _Product.apply(flat, packed, bias, self.table, feature_major)[0].t()
        return out if x.dim() == 2 else out.contiguous().view(*x.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A 1x1 convolution without padding, in ``memory_format``."""

    path: str
    positions: Tensor
    table: GroupTable
    stride: tuple[int, ...]
    memory_format: torch.memory_format

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G, K, B]."""
        return self.table.fill(values)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, in, h, w] -> [batch, out, h', w'], in the memory format."""
        x = x[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=self.memory_format)
        out: Tensor
        if self.memory_format == torch.channels_last:  # a pixel is a row of the input matrix
            out = _Product.apply(gather.as_pixels(x), packed, bias, self.table, channels_last)
            return gather.from_pixels(out, x)
        out = _Product.apply(x.flatten(2), packed, bias, self.table, feature_major)
        return out.view(len(x), -1, *x.shape[2:])


class Products(Protocol):
    """The products for one memory format; they write to memory that they are given."""

    def multiply(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable, out: Tensor
    ) -> None:
        """Inputs [n, in, ...], weights [G, K, B] and biases [G, B] to outputs [n, out, ...]."""
        ...

    def differentiate(
        self, x: Tensor, weight: Tensor, gradient: Tensor, table: GroupTable, wanted: Gradients
    ) -> None:
        """Add the gradients that a gradient of the output, [n, out, ...], gives, to those that are wanted."""
        ...


class _Product(torch.autograd.Function):
    """[n, in, ...] -> [n, out, ...], with weights [G, K, B] and a bias, [out] or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable, products: Products
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.table, ctx.products = table, products
        out = workspace.empty((len(x), len(table.perm), *x.shape[2:]), x.dtype)
        products.multiply(x, weight, table.bias_of(bias), table, out)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        want_x, want_weight, want_bias, *_ = ctx.needs_input_grad
        grad_x = workspace.empty(x.shape, x.dtype).zero_() if want_x else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        ctx.products.differentiate(x, weight, gradient, ctx.table, (grad_x, grad_weight))
        others = [dim for dim in range(gradient.dim()) if dim != 1]
        return grad_x, grad_weight, gradient.sum(others) if want_bias else None, None, None
