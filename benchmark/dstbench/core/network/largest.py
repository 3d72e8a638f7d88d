"""The most that can be carved out of a model while it computes the same: what a walk of its graph finds, tried.

A graph doesn't show all that a model's own code does with its widths. Where a network can't run without the channels
that were found, or computes something else, the layers that are to blame keep theirs, and the others lose theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dstbench.api import StrategyError
from dstbench.core.network.carve import carve
from dstbench.core.network.channels import Removal, removable
from dstbench.core.network.inputs import Inputs, call
from dstbench.core.network.outputs import Comparison, comparison, tolerance

_EXACT = 1e-5  # what outputs may differ by, of their size, in float32
_TRIES = 32  # of networks that are carved and run, at most


@dataclass(frozen=True)
class Carved:
    """A model without the channels of a removal, and how near its outputs came on the example."""

    model: nn.Module
    removal: Removal
    folded: Mapping[str, tuple[int, ...]]  # layer -> input channels that are now in its bias
    check: Comparison


@torch.no_grad()
def largest(masked: nn.Module, masks: Mapping[str, Tensor], example: Inputs, multiple: int = 1) -> Carved:
    """Carve as much as possible out of a copy of a model in evaluation mode, whose masked weights are zero.

    masks, multiple: as ``removable`` takes them. example: an input, on which every tensor of the outputs must agree
    to 1e-5 of its size in float32, and to what rounding explains in coarser dtypes. Raises StrategyError where the
    outputs of the model itself aren't the same twice.
    """
    everything = removable(masked, masks, multiple, example)
    search = _Search(masked, example, call(masked, example), everything)
    if not search.holds({}):
        search.grow((), _parts(everything))
    if search.best is None and not search.holds(dict.fromkeys(everything.rows, search.reason)):
        raise StrategyError(
            f"compact: a copy of {type(masked).__name__} that nothing was removed from {search.reason}"
        )
    assert search.best is not None
    said = replace(search.best.removal, refused=search.refused)
    return replace(search.best, removal=said)


@dataclass
class _Search:
    """Which parts can go together, found by halves."""

    masked: nn.Module
    example: Inputs
    expected: Any  # outputs
    everything: Removal
    best: Carved | None = None  # the last that held
    reason: str = ""  # why the last that didn't hold did not
    refused: dict[str, str] = field(default_factory=dict)  # layer -> why it keeps its channels
    tries: int = 0

    def grow(self, kept_out: Sequence[str], parts: Sequence[tuple[str, ...]]) -> None:
        """Add what can be added of these parts, layers that lose channels together, which fail as a whole, to all
        that was accepted. kept_out: layers that are tried later."""
        if len(parts) == 1 or self.tries >= _TRIES:
            self.refused |= {name: self.reason for part in parts for name in part}
            return
        half = len(parts) // 2
        for part, later in ((parts[:half], parts[half:]), (parts[half:], ())):
            waiting = (*kept_out, *(name for names in later for name in names))
            if not self.holds(self.refused | dict.fromkeys(waiting, "")):
                self.grow(waiting, part)

    def holds(self, refused: Mapping[str, str]) -> bool:
        """Whether the network without all other channels runs and computes the same; if so, it is the best."""
        self.tries += 1
        removal = self.everything.refusing(refused) if refused else self.everything
        small = copy.deepcopy(self.masked)
        try:
            folded = carve(small, removal)
            outputs = call(small, self.example)
            limit = tolerance(_EXACT, self.masked, self.example, self.expected)
            check = comparison(outputs, self.expected, limit)
        except Exception as error:  # of the model's own code, which meets widths that it wasn't written for
            self.reason = f"can't run with fewer channels: {error or type(error).__name__}"
            return False
        if not check.ok:
            self.reason = f"computes something else with fewer channels: {check}"
            return False
        self.best = Carved(small, removal, folded, check)
        return True


def _parts(removal: Removal) -> list[tuple[str, ...]]:
    """The layers that lose rows, those together that lose a channel together."""
    parts: dict[str, set[str]] = {}
    homes: dict[int, str] = {}
    for name, gone in removal.rows.items():
        parts[name] = {name}
        for channel in set(removal.channels.of[removal.channels.flow.rows[name]][gone].tolist()):
            other = homes.setdefault(channel, name)
            if parts[other] is not parts[name]:
                merged = parts[other] | parts[name]
                parts |= dict.fromkeys(merged, merged)
    return list({id(part): tuple(sorted(part)) for part in parts.values()}.values())
