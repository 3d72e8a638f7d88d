"""Learning rates by layer: while an optimizer steps, layers with a rate of their own have a group of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from dstbench.errors import BadInput

Group = dict[str, Any]


class Rates:
    """Scales learning rates for one step of an optimizer, and puts its groups back behind it.

    Between steps the groups are those that the optimizer was made with, so that schedules of learning rates, which
    know them by number, and checkpoints see nothing of it.
    """

    def __init__(self) -> None:
        self._held: dict[
            int, tuple[Optimizer, list[Group], list[Group]]
        ] = {}  # optimizer, its groups, those in use

    def enter(self, optimizer: Optimizer, scales: Mapping[int, float], factor: float) -> None:
        """Have the coming step use them. scales: of the rates of some parameters, by id. factor: of all rates.

        Raises BadInput where a group has no learning rate.
        """
        self.leave(optimizer)
        groups = list(optimizer.param_groups)
        scaled = [part for group in groups for part in _split(optimizer, group, scales, factor)]
        if len(scaled) == len(groups) and all(a is b for a, b in zip(scaled, groups, strict=True)):
            return
        self._held[id(optimizer)] = optimizer, groups, scaled
        optimizer.param_groups[:] = scaled

    def leave(self, optimizer: Optimizer) -> None:
        """Put the groups back, with what the step wrote into them."""
        if id(optimizer) not in self._held:
            return
        _, groups, scaled = self._held.pop(id(optimizer))
        first: dict[int, Group] = {}
        for part in scaled:
            first.setdefault(id(part.get(_OF, part)), part)
        for group in groups:
            part = first.get(id(group), group)
            group |= {key: value for key, value in part.items() if key not in ("params", "lr", _OF)}
        optimizer.param_groups[:] = groups

    def leave_all(self) -> None:
        """Put all groups back, of optimizers whose step failed."""
        for optimizer, _, _ in list(self._held.values()):
            self.leave(optimizer)


_OF = "_dstbench_of"  # a part's key for the group that it is of


def _split(optimizer: Optimizer, group: Group, scales: Mapping[int, float], factor: float) -> list[Group]:
    """A group by the rates of its parameters: itself where they all have its own."""
    parts: dict[float, list[Any]] = {}
    for parameter in group["params"]:
        parts.setdefault(factor * scales.get(id(parameter), 1.0), []).append(parameter)
    if set(parts) <= {1.0}:
        return [group]
    if "lr" not in group:
        raise BadInput(
            f"optimizer: {type(optimizer).__name__} has no learning rate, which the recipe's values scale"
        )
    return [{**group, "params": held, "lr": group["lr"] * scale, _OF: group} for scale, held in parts.items()]
