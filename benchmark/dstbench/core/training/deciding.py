"""Where masks are decided, nothing counts that a process or a loop has set around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from dstbench.core.network.defaults import usual_defaults
from dstbench.core.training.rules import Rules


class Decider(Protocol):
    """What goes by rules."""

    rules: Rules


_Self = TypeVar("_Self", bound=Decider)
_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def deciding(
    method: Callable[Concatenate[_Self, _Given], _Made],
) -> Callable[Concatenate[_Self, _Given], _Made]:
    """Without gradients, and in the weights' own precision whatever autocast or defaults are set around it."""

    @wraps(method)
    def run(self: _Self, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        device = next(iter(self.rules.layers.values())).weight.device.type
        with usual_defaults(), torch.no_grad(), torch.autocast(device, enabled=False):
            return method(self, *args, **kwargs)

    return run
