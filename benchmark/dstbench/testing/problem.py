"""What a check found, and how it calls a strategy without trusting it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One way in which a component breaks its contract."""

    component: str
    check: str  # such as "purity"
    message: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.component}: {self.check}: {self.message}"


Findings = Iterator[tuple[str, str]]
"""(check, message), as the checks of one component yield them."""


def summarise(component: str, findings: Iterable[tuple[str, str]]) -> list[Problem]:
    """One Problem a check, the first, with the number of the others: one mistake shows on many layers."""
    first: dict[str, Problem] = {}
    more: dict[str, int] = {}
    for check, message in findings:
        if check in first:
            more[check] = more.get(check, 0) + 1
        else:
            first[check] = Problem(component, check, message)
    return [
        replace(p, message=f"{p.message} (and {more[check]} more like it)") if check in more else p
        for check, p in first.items()
    ]


def label(component: Any, name: str) -> str:
    """What a report calls a component."""
    return name or repr(component)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"raised {type(error).__name__}: {error}".split())


def call_purely(call: Callable[[], Any], inputs: Mapping[str, Tensor], where: str) -> tuple[Any, Findings]:
    """Call a strategy twice under different global seeds.

    Returns its first result and what it did wrong: changed an input, drew from a global generator, or gave
    two results. ``call`` makes its own generator anew. Exceptions pass through.
    """
    before = {name: _bits(tensor).clone() for name, tensor in inputs.items()}
    with global_seed(1):
        state = torch.get_rng_state()
        first = call()
        drew = not torch.equal(state, torch.get_rng_state())
    independent = same(first, _seeded(call, 2))
    repeatable = independent or same(first, _seeded(call, 1))
    changed = [name for name, tensor in inputs.items() if not torch.equal(_bits(tensor), before[name])]
    return first, _impurities(where, changed, drew, repeatable, independent)


def _impurities(where: str, changed: list[str], drew: bool, repeatable: bool, independent: bool) -> Findings:
    if changed:
        yield "purity", f"{where}: changed its input {', '.join(changed)}"
    if not repeatable:
        yield "determinism", f"{where}: gave two results for the same input and an equal generator"
    elif drew or not independent:
        yield "global RNG", f"{where}: draws from a global random generator: use the rng that is passed in"


def same(one: Any, other: Any) -> bool:
    """Equality of results, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            return False
        return one.is_meta or torch.equal(_bits(one), _bits(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def _seeded(call: Callable[[], Any], seed: int) -> Any:
    with global_seed(seed):
        return call()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed every global generator that layers on a CPU can draw from, and put back what was there."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed GPUs too, which nothing puts back
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
