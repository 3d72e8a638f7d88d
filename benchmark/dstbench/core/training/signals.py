"""What scores read besides weights: dense gradients, copied before they are masked, and their average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dstbench.api import Signal
from dstbench.core import ranks

_GRADIENTS = Signal.GRAD | Signal.ACTIVE_GRAD
_EMA_DECAY = 0.9  # of the dense momentum: the SGD momentum of the papers that grow by it


class Signals:
    """The dense gradients of the coming step, and an exponential average of those of applied steps."""

    def __init__(self) -> None:
        self.momentum: dict[str, Tensor] = {}  # float [*w] by layer
        self._dense: dict[str, Tensor] = {}  # float [*w] by layer, of the coming step

    def keep(self, gradients: Mapping[str, Tensor], scale: Tensor | None) -> None:
        """Copy those of this step's gradients that something reads; ``scale`` is a loss scale they still carry."""
        self._dense = {name: g.clone() if scale is None else g / scale for name, g in gradients.items()}

    def fold(self, needs: Signal) -> None:
        """The step is being applied: its gradients enter the average. A skipped step's never do."""
        if Signal.MOMENTUM in needs:
            for name, gradient in self._dense.items():
                if name not in self.momentum:
                    self.momentum[name] = torch.zeros_like(gradient)
                self.momentum[name].mul_(_EMA_DECAY).add_(gradient)

    def ready(self, needs: Signal, masks: Mapping[str, Tensor]) -> list[str]:
        """The layers, the same on every rank, that have what a decision asks for: not those that the step's loss
        didn't depend on. masks: bool [*w] by layer."""
        held = [
            values
            for values, signals in ((self._dense, _GRADIENTS), (self.momentum, Signal.MOMENTUM))
            if needs & signals
        ]
        if not held:
            return list(masks)
        device = next(iter(masks.values())).device
        everywhere = ranks.everywhere([all(name in values for values in held) for name in masks], device)
        return [name for name, has in zip(masks, everywhere, strict=True) if has]

    def read(self, needs: Signal, masks: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The fields of LayerView that a decision asked for, the same on every rank. masks: bool [*w] of the layers
        that are ready for it."""
        fields: dict[str, dict[str, Tensor]] = {}
        dense = {name: self._dense[name] for name in masks} if needs & _GRADIENTS else {}
        ranks.average(dense)  # before anyone takes an absolute value
        if Signal.GRAD in needs:
            fields["grad"] = dense
        if Signal.ACTIVE_GRAD in needs:
            fields["active_grad"] = {name: g.where(masks[name], 0) for name, g in dense.items()}
        if Signal.MOMENTUM in needs:
            fields["momentum"] = {name: self.momentum[name].clone() for name in masks}
            ranks.average(fields["momentum"])
        return fields

    def forget(self) -> None:
        """The step is over: free its gradients."""
        self._dense = {}

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Follow weights to another device or dtype."""
        self.momentum = {name: value.to(weights[name]) for name, value in self.momentum.items()}


def blank(fields: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether gradients were asked for and all are zero, so that to decide by them would be to decide by order."""
    asked = [value for name in ("grad", "active_grad") for value in fields.get(name, {}).values()]
    return bool(asked) and not any(bool(value.any()) for value in asked)
