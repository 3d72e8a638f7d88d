"""What a process may have set for all of torch, and what must not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def usual_defaults() -> Iterator[None]:
    """torch's own default dtype and device: what is decided inside, by a plugin too, is the same whatever
    ``torch.set_default_dtype`` and ``set_default_device`` said. A decorator as well."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    cpu = nullcontext() if device.type == "cpu" else torch.device("cpu")
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with cpu:
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)
