"""Memory for large outputs, used again and again: page faults of fresh memory can cost more than the product."""

from __future__ import annotations

import sys
import threading
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SMALLEST = 1 << 20  # bytes; the C library serves less from memory it has at hand
_IDLE = 1 << 30  # bytes that may lie unused


def _references(pool: list[np.ndarray[Any, Any]], index: int) -> int:
    """References to memory in a pool, counted always in the same way: Python versions differ in their own."""
    return sys.getrefcount(pool[index])


_UNUSED = _references([np.empty(1)], 0)
_pool: list[np.ndarray[Any, Any]] = []  # uint8 [bytes]; the most recently used last
_lock = threading.Lock()


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """An uninitialised CPU tensor, in memory that no living tensor uses.

    A tensor made from a buffer refers to it for as long as any view of its storage lives, in Python or in an
    autograd graph, so a reference count tells whether memory is free.
    """
    count = prod(shape)
    if count * dtype.itemsize < _SMALLEST:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    strides = torch.empty(shape, device="meta", memory_format=memory_format).stride()
    with _lock:
        storage = torch.frombuffer(_take(count * dtype.itemsize), dtype=dtype, count=count).untyped_storage()
    # not a view, which a custom autograd function couldn't return to somebody who works on it in place
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def _take(size: int) -> np.ndarray[Any, Any]:
    """Free memory of about this size, from the pool or new; then the pool lets go of what lies idle too much."""
    idle = 0
    for index in reversed(range(len(_pool))):
        if _references(_pool, index) > _UNUSED:
            continue
        held = _pool[index].nbytes
        if size <= held <= 2 * size:
            _pool.append(_pool.pop(index))
            return _pool[-1]
        idle += held
        if idle > _IDLE:
            del _pool[index]
    _pool.append(torch.empty(size, dtype=torch.uint8).numpy())  # aligned as torch's kernels like it
    return _pool[-1]
