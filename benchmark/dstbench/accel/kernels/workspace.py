"""Memory for large outputs, used again and again: page faults of fresh memory can cost more than the product."""

from __future__ import annotations

import mmap
import sys
import threading
from math import prod

import torch
from torch import Tensor

_SMALLEST = 1 << 20  # bytes; the C library serves less from memory it has at hand
_IDLE = 1 << 30  # bytes that may lie unused
_UNUSED = 3  # references to memory that no tensor uses: the pool's, a loop's and getrefcount's own
_pool: list[mmap.mmap] = []  # the most recently used last
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


def _take(size: int) -> mmap.mmap:
    """Free memory of about this size, from the pool or new; then the pool lets go of what lies idle too much."""
    idle = 0
    for index in reversed(range(len(_pool))):
        memory = _pool[index]
        if sys.getrefcount(memory) > _UNUSED:
            continue
        if size <= len(memory) <= 2 * size:
            _pool.append(_pool.pop(index))
            return memory
        idle += len(memory)
        if idle > _IDLE:
            del _pool[index]
    memory = mmap.mmap(-1, size)
    _pool.append(memory)
    return memory
