"""What is otherwise only while an optimizer steps: learning rates, pulls on gradients, weights that train unseen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from dstbench.core.training.evolution import Evolution
from dstbench.core.training.joint import parameters_of
from dstbench.core.training.rates import Rates


class Stepping:
    """Surrounds the steps of a training's optimizers: see ``hooks.Surroundings``."""

    def __init__(self, evolution: Evolution) -> None:
        self._evolution, self._rates = evolution, Rates()
        self.trains = True  # whether the coming step is one of training

    @torch.no_grad()
    def enter(self, optimizer: Optimizer) -> None:
        """Weights that train besides the active ones come in; gradients are pulled; layers get their rates."""
        evolution, policy = self._evolution, self._evolution.values.policy
        if not evolution.decided or evolution.rules.method.dense:
            return
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        layers = [name for name, value in evolution.masking.weights.values.items() if id(value) in held]
        if self.trains and policy.pulls:
            self._pull(optimizer, layers)
        evolution.masking.enter(layers)
        if not policy.plain:
            self._rates.enter(optimizer, self._scales(layers), policy.lr_factor(evolution.since_update))

    @torch.no_grad()
    def leave(self, optimizer: Optimizer) -> None:
        """As it was before."""
        self._rates.leave(optimizer)
        self._evolution.masking.leave()

    @torch.no_grad()
    def leave_all(self) -> None:
        """A step may have failed."""
        self._rates.leave_all()
        self._evolution.masking.leave()

    def _scales(self, layers: list[str]) -> dict[int, float]:
        """Of the learning rates of these layers' parameters, by id."""
        evolution = self._evolution
        values, active = evolution.masking.weights.values, evolution.masking.topology.active
        infos = {name: evolution.rules.layers[name].info for name in layers}
        policy = evolution.values.policy
        return {
            id(values[name]): policy.lr_scale(info, active[name] / info.numel) for name, info in infos.items()
        }

    def _pull(self, optimizer: Optimizer, layers: list[str]) -> None:
        """Add to the gradients that there are, where weights train."""
        evolution = self._evolution
        weights = evolution.masking.weights
        gradients = {name: g for name in layers if (g := weights.values[name].grad) is not None}
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)  # that gradients still carry
        for name, pulled in evolution.pulls(list(gradients)).items():
            pulled = weights.stored[name].physical(pulled)
            gradients[name].add_(pulled if scale is None else pulled * scale)
        evolution.masking.mask(gradients, silent=False)
