"""All or nothing: a construction that fails leaves a model and its optimizers as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@contextmanager
def undone_on_failure(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Put back, if the body raises, all values, modules, groups, states and hooks, in place and bit for bit."""
    modules = list(model.modules())
    undo = [_values([*model.parameters(), *model.buffers()])]
    undo += [_attributes(module) for module in modules]
    for optimizer in optimizers:
        held = [group["params"] for group in optimizer.param_groups]
        states = list(optimizer.state.values())
        undo += [_attributes(optimizer), *map(_container, [*held, *states])]
        undo.append(_values([v for state in states for v in state.values() if isinstance(v, Tensor)]))
    try:
        yield
    except BaseException:
        for put_back in undo:
            put_back()
        raise


def _values(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Tensors' memory, entries, gradients and hooks on them."""
    held = [(t, t.data, t.detach().clone(), t.grad if t.is_leaf else None) for t in tensors if not t.is_meta]
    hooks = [(tensor, dict(tensor._post_accumulate_grad_hooks or {})) for tensor in tensors]

    def put_back() -> None:
        with torch.no_grad():
            for tensor, memory, entries, gradient in held:
                tensor.data = memory
                tensor.copy_(entries)
                if tensor.is_leaf:
                    tensor.grad = gradient
        for tensor, before in hooks:
            now = tensor._post_accumulate_grad_hooks
            if now is not None:
                now.clear()
                now.update(before)

    return put_back


def _attributes(owner: Any) -> Callable[[], None]:
    """An object's attributes, with the entries of those that are dictionaries, lists or sets."""
    attributes = dict(owner.__dict__)
    inside = [
        _container(attribute) for attribute in attributes.values() if isinstance(attribute, dict | list | set)
    ]

    def put_back() -> None:
        owner.__dict__.clear()
        owner.__dict__.update(attributes)
        for refill in inside:
            refill()

    return put_back


def _container(held: Any) -> Callable[[], None]:
    """The entries of a dictionary, list or set, in the same one."""
    entries = held.copy() if not isinstance(held, dict) else list(held.items())

    def put_back() -> None:
        held.clear()
        held.extend(entries) if isinstance(held, list) else held.update(entries)

    return put_back
