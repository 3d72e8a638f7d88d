"""What a method's values come to in a training: initial and grown weights, the memory, and pulls on gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, StrategyError, ValuePolicy
from dstbench.core import ranks
from dstbench.core.engine.finiteness import check_finite
from dstbench.core.engine.random import generator
from dstbench.core.engine.update import Masks
from dstbench.core.storage.stored import Weights

Views = Mapping[str, LayerView]
Tensors = dict[str, Tensor]  # layer name -> float [*w]


class WeightValues:
    """Asks a method's values, checks what they say, and keeps what they remember."""

    def __init__(self, policy: ValuePolicy, seed: int) -> None:
        self.policy, self._seed = policy, seed
        self.memory: Tensors = {}

    def begin(self, views: Views) -> Tensors:
        """What the layers' active weights start with, by their initial masks; the memory begins with them. Layers
        that aren't named keep what they have."""
        views = self.remember(views, 0)
        ranks.hold_as_rank_0(self.memory.values())  # as their weights will once they are wrapped
        if self.policy.keeps:
            return {}
        return self._asked(self.policy.initial, views, 0, "initial")

    def remember(self, views: Views, step: int) -> Views:
        """Before masks change, or the first come: the same layers with the memory that they have from now on."""
        if not self.policy.remembers:
            return views
        self.memory |= self._asked(self.policy.remember, views, step, "memory")
        return {name: replace(view, memory=self.memory[name]) for name, view in views.items()}

    def grown(self, views: Views, stay: Masks, masks: Masks, step: int) -> Tensors:
        """What weights hold that come to life as ``masks`` take the place of the views' own, of which those of
        ``stay`` live on; layers that aren't named grow at zero."""
        if self.policy.grows_zero:
            return {}
        changed = {
            name: replace(view, mask=masks[name], before=stay[name])
            for name, view in views.items()
            if bool((masks[name] & ~stay[name]).any())
        }
        return self._asked(self.policy.grown_values, changed, step, "grown")

    def pulls(self, views: Views, step: int) -> Tensors:
        """What is added to the gradients of a step."""
        return self._asked(self.policy.pull, views, step, "pull")

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Follow weights to another device or dtype."""
        self.memory = {name: value.to(weights[name]) for name, value in self.memory.items()}

    def _asked(
        self,
        ask: Callable[[LayerView, Generator], Tensor],
        views: Views,
        step: int,
        role: str,
    ) -> Tensors:
        """What each layer's weights are told, checked, as the weights' own dtype. Raises StrategyError naming the
        strategy, the layer and the defect, and NotFinite where the weights themselves aren't finite any more; on all
        ranks, whichever met with it."""
        told: Tensors = {}
        with ranks.together(f"what values say at step {step} ({role})"):
            for name, view in views.items():
                told[name] = _checked(self.policy, ask, view, generator(self._seed, name, step, role), step)
        return told


def _checked(
    who: object, ask: Callable[[LayerView, Generator], Tensor], view: LayerView, rng: Generator, step: int
) -> Tensor:
    where, shape = f"{who!r}, layer {view.name!r}", tuple(view.weight.shape)
    with torch.no_grad():
        values = ask(view, rng)
    if not isinstance(values, Tensor) or tuple(values.shape) != shape or not values.is_floating_point():
        came = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise StrategyError(f"{where}: expected float {list(shape)}, got {came}")
    if values.device != view.weight.device:
        raise StrategyError(f"{where}: expected device {view.weight.device}, got {values.device}")
    values = values.to(view.weight.dtype)
    if not bool(values.isfinite().all()):
        if step:  # before it, nothing could diverge
            check_finite({view.name: view}, step)
        raise StrategyError(
            f"{where}: {int((~values.isfinite()).sum())} of {values.numel()} values aren't finite"
        )
    return values


@torch.no_grad()
def write(weights: Weights, values: Mapping[str, Tensor], where: Mapping[str, Tensor]) -> None:
    """Give weights these values, float [*w] by layer, in place, at positions of ``where``, bool [*w]; however they
    are stored."""
    for name, value in values.items():
        stored = weights.stored[name]
        held = stored.values
        held.copy_(torch.where(stored.physical(where[name]), stored.physical(value), held))
