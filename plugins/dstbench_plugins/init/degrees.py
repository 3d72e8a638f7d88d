"""How many links each node of a bipartite layer gets."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def fixed_degrees(links: int, nodes: int, rng: Generator) -> Tensor:
    """As equal as can be, the larger ones at random nodes: int64 [nodes], summing to ``links``."""
    degrees = torch.full((nodes,), links // nodes)
    degrees[torch.randperm(nodes, generator=rng)[: links % nodes]] += 1
    return degrees


def uniform_degrees(links: int, nodes: int, most: int, rng: Generator) -> Tensor:
    """One each, the others to random nodes: int64 [nodes], summing to ``links``. What exceeds ``most`` goes on to
    nodes with room. nodes <= links <= nodes · most."""
    drawn = torch.randint(nodes, (links - nodes,), generator=rng)
    degrees = 1 + drawn.bincount(minlength=nodes)
    while (surplus := int((degrees - most).clamp(min=0).sum())) > 0:
        degrees.clamp_(max=most)
        free = (degrees < most).nonzero().flatten()
        drawn = free[torch.randint(len(free), (surplus,), generator=rng)]
        degrees += drawn.bincount(minlength=nodes)
    return degrees
