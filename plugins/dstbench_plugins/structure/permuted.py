"""A structure over fixed random permutations of a layer's rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.api import Execution, LayerCall, LayerInfo, Quota
from dstbench_plugins.checks import check_choice, check_integer
from dstbench_plugins.structure.block import Block
from dstbench_plugins.structure.diagonal import Diagonal
from dstbench_plugins.structure.group_fan_in import GroupFanIn
from dstbench_plugins.structure.misfits import not_bipartite
from dstbench_plugins.structure.n_of_m import NOfM

Of = Literal["block", "diagonal", "group_fan_in", "n_of_m"]
Axis = Literal["columns", "rows", "both"]


@dataclass(frozen=True)
class Permuted:
    """unit(i, j) = unit of ``of`` at (ρ(i), π(j)), π and ρ drawn once from (``seed``, layer name): the control with
    random permutations of PA-DST (arXiv 2510.14812), which learns π.

    Known from a report about the paper, not from its text. A mask is legal where it is without the permutations. By
    default columns alone are permuted, for which PA-DST found rows to make no difference; a convolution's columns
    are (in-channel, tap) pairs. n_of_m doesn't change under permutations inside a group or of groups. Permuted blocks
    and shared fan-in are row groups, which shuffled blocks' kernels compute; the others run masked dense.
    """

    of: Of = "block"
    block_size: int = 16  # of block and group_fan_in
    n: int = 2  # of n_of_m
    m: int = 4
    axis: Axis = "columns"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what isn't a structure or a permutation."""
        check_choice("of", self.of, get_args(Of))
        check_choice("axis", self.axis, get_args(Axis))
        check_integer("seed", self.seed, least=0)
        _ = self.inner

    @property
    def inner(self) -> Block | Diagonal | GroupFanIn | NOfM:
        """What is permuted."""
        if self.of == "diagonal":
            return Diagonal()
        if self.of == "n_of_m":
            return NOfM(self.n, self.m)
        return Block(self.block_size) if self.of == "block" else GroupFanIn(self.block_size)

    def misfit(self, layer: LayerInfo) -> str | None:
        """What doesn't fit unpermuted, and layers without links between inputs and outputs."""
        return not_bipartite(layer) or self.inner.misfit(layer)

    def units(self, layer: LayerInfo) -> Tensor:
        """The unit of every weight, numbered as unpermuted."""
        units = self.inner.units(layer).flatten(1)
        if self.axis != "columns":
            units = units[_permutation(units.shape[0], self.seed, f"{layer.name} rows")]
        if self.axis != "rows":
            units = units[:, _permutation(units.shape[1], self.seed, f"{layer.name} columns")]
        return units.view(layer.shape)

    def quota(self, layer: LayerInfo) -> Quota | None:
        """That of what is permuted: units keep their numbers."""
        return self.inner.quota(layer) if isinstance(self.inner, GroupFanIn | NOfM) else None

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """Groups of rows that share their columns, wherever these lie."""
        if self.of in ("block", "group_fan_in"):
            return row_group_executions(call, mask, self.block_size, "entry")
        return ()


def _permutation(size: int, seed: int, name: str) -> Tensor:
    """int64 [size], the same for the same seed and name on any machine."""
    digest = sha256(f"{seed} {name}".encode()).digest()
    return torch.randperm(size, generator=Generator().manual_seed(int.from_bytes(digest[:7], "big")))
