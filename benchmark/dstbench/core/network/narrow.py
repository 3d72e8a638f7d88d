"""Norms over channels of which some are gone that were zero: what is left is normalised as it was among them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class NarrowNorm(nn.Module):
    """A layer norm, a group norm of one group, or a norm by the root mean square, of the channels that are left.

    Channels that were zero add nothing to a sum, but count in the mean over all of them. With C channels before, of
    which k are left: mean = Σx / C and variance = (Σ (x - mean)² + (C - k) mean²) / C.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        share: float,
        eps: float,
        axis: Literal[1, -1],
        over: Literal["channels", "sample"] = "channels",
        centred: bool = True,
    ) -> None:
        """weight, bias: [k]. share: k / C. axis: of the channels. over: the channels of each place, or all of a
        sample. centred: whether the mean is taken off."""
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.share, self.eps, self.axis, self.over, self.centred = share, eps, axis, over, centred

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, ..., k] or [batch, k, ...], as ``axis`` says."""
        dims: list[int] = [self.axis] if self.over == "channels" else list(range(1, x.dim()))
        wide = x if x.dtype == torch.float64 else x.float()
        mean = wide.mean(dims, keepdim=True) * self.share if self.centred else torch.zeros_like(wide[:1, :1])
        squares = ((wide - mean) ** 2).mean(dims, keepdim=True) * self.share + (1 - self.share) * mean**2
        shape = [-1] + [1] * (x.dim() - 2) if self.axis == 1 else [-1]
        result = ((wide - mean) * torch.rsqrt(squares + self.eps)).to(x.dtype) * self.weight.view(shape)
        return result if self.bias is None else result + self.bias.view(shape)

    def extra_repr(self) -> str:
        """Its width, now and before."""
        return f"{len(self.weight)} of {round(len(self.weight) / self.share)}, axis={self.axis}"
