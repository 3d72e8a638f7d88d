"""Support: the positions that may ever be active again. It shrinks at a structure's own events, never grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dstbench.api import Clock, Coupling, Infeasible, LayerView, StrategyError, Support
from dstbench.api.select import count


@dataclass(frozen=True)
class Removal:
    """What one event took away for good."""

    step: int
    removed: int  # positions, of all layers
    dropped: int  # weights that were active there
    active: int  # weights, after it
    supported: int  # positions that may still be active


def check_support(component: Support, clock: Callable[[int], Clock], last_update: int) -> None:
    """Refuse events that no topology update follows: what they remove could not grow back elsewhere."""
    total = clock(0).total_steps
    late = next((step for step in range(total, last_update, -1) if component.events(clock(step))), None)
    if late is not None:
        raise Infeasible(
            f"{component!r} removes weights until step {late}, and the last topology update, which would grow as "
            f"many elsewhere, is at step {last_update}: let the removal stop earlier or the updates go on"
        )


def shrunk(
    component: Support, views: Mapping[str, LayerView], couplings: tuple[Coupling, ...], clock: Clock
) -> dict[str, Tensor]:
    """The new support, bool [*w], of the layers that lose positions, checked: known, smaller, not empty."""
    with torch.no_grad():
        left = component.support(views, couplings, clock)
    for name, support in left.items():
        where = f"{component!r}, layer {name!r}"
        if name not in views:
            raise StrategyError(f"{where}: there is no such layer")
        view = views[name]
        if support.dtype != torch.bool or support.shape != view.mask.shape:
            expected = f"expected bool {tuple(view.mask.shape)}"
            raise StrategyError(f"{where}: {expected}, got {support.dtype} {tuple(support.shape)}")
        if view.support is not None and bool((support & ~view.support).any()):
            raise StrategyError(f"{where}: a support may only shrink, and some of it had been removed before")
        if not bool(support.any()):
            raise StrategyError(f"{where}: nothing is left of it")
        if clock.step == 0 and not bool(support.all()):
            raise StrategyError(f"{where}: nothing can be removed before the first step")
    before = {
        name: view.mask.numel() if view.support is None else count(view.support)
        for name, view in views.items()
    }
    return {name: support for name, support in left.items() if count(support) < before[name]}
