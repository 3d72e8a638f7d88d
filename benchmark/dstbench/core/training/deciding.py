"""Where masks are decided, nothing counts that a process or a loop has set around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch

from dstbench.core.network.defaults import usual_defaults
from dstbench.core.training.readings import Readings

_Self = TypeVar("_Self", bound=Readings)
_Given = ParamSpec("_Given")


def deciding(
    method: Callable[Concatenate[_Self, _Given], None],
) -> Callable[Concatenate[_Self, _Given], None]:
    """Without gradients, and in the weights' own precision whatever autocast or defaults are set around it."""

    @wraps(method)
    def run(self: _Self, /, *args: _Given.args, **kwargs: _Given.kwargs) -> None:
        device = next(iter(self.layers.values())).weight.device.type
        with usual_defaults(), torch.no_grad(), torch.autocast(device, enabled=False):
            method(self, *args, **kwargs)

    return run
