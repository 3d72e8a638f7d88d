"""Randomness: generators made from (seed, layer name, step, role), the same on any rank, worker or device."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import torch


def generator(seed: int, layer: str, step: int, role: str = "") -> torch.Generator:
    """A CPU generator of its own for one draw. Python's ``hash`` would differ from process to process."""
    digest = blake2b(f"{seed}\0{layer}\0{step}\0{role}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest) >> 1)


def draws(seed: int, step: int) -> Callable[[str, str], torch.Generator]:
    """The generators of one decision: (layer name, role) -> ``generator`` of that step."""
    return lambda layer, role: generator(seed, layer, step, role)
