"""Memory for large outputs, used again and again: page faults of fresh memory can cost more than the product."""

from __future__ import annotations

import functools
import threading
import weakref
from math import prod
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SMALLEST = 1 << 20  # bytes; the C library serves less from memory it has at hand
_IDLE = 1 << 30  # bytes that may lie unused

Block = np.ndarray[Any, np.dtype[np.uint8]]  # [bytes]


class Pool:
    """Lends memory to tensors. It belongs to the tensor's storage until the last view of that is gone, in Python
    or in an autograd graph, and then comes back by itself: the pool keeps what is idle, and nothing that is lent.

    Threads may share a pool. Memory can come back in any of them and at any time, even while this one is inside
    ``empty``: it only joins a queue.
    """

    def __init__(self, idle: int = _IDLE) -> None:
        self._most_idle = idle  # bytes
        self._idle: list[Block] = []  # the one that came back last, last
        self._returned: SimpleQueue[Block] = SimpleQueue()
        self._lock = threading.Lock()  # of _idle

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """An uninitialised CPU tensor, in memory that no living tensor uses."""
        count = prod(shape)
        if count * dtype.itemsize < _SMALLEST:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format)
        strides = _strides(shape, memory_format)
        block = self._take(count * dtype.itemsize)
        loan = block[:]  # an object of its own, which the storage alone refers to
        weakref.finalize(loan, self._returned.put, block).atexit = False
        storage = torch.frombuffer(loan, dtype=dtype, count=count).untyped_storage()
        # not a view, which a custom autograd function couldn't return to somebody who works on it in place
        return torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)

    def _take(self, size: int) -> Block:
        """Idle memory of about this size, or new; the pool lets go of what has been idle longest, if too much is."""
        with self._lock:
            self._collect()
            fits = [i for i, block in enumerate(self._idle) if size <= block.nbytes <= 2 * size]
            taken = self._idle.pop(fits[-1]) if fits else None
            while sum(block.nbytes for block in self._idle) > self._most_idle:
                del self._idle[0]
        return torch.empty(size, dtype=torch.uint8).numpy() if taken is None else taken  # aligned for kernels

    def _collect(self) -> None:
        """Move what has come back to what is idle."""
        while not self._returned.empty():
            self._idle.append(self._returned.get())

    @property
    def idle(self) -> dict[int, int]:
        """Memory that no tensor uses now: address -> bytes."""
        with self._lock:
            self._collect()
            return {block.ctypes.data: block.nbytes for block in self._idle}


@functools.lru_cache(256)
def _strides(shape: tuple[int, ...], memory_format: torch.memory_format) -> tuple[int, ...]:
    return torch.empty(shape, device="meta", memory_format=memory_format).stride()


empty = Pool().empty
"""From the pool that all layers of the process share: each asks for what another has just given back."""
