"""How optimizers were seen to treat weights, kept for the next of the same kind: trying one takes 50 ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from dstbench.core.storage.conduct import Conduct, conduct

_PLAIN = (bool, int, float, str, type(None))
_MOST = 256
_seen: dict[tuple[Any, ...], Conduct] = {}


def known_conduct(optimizer: Optimizer, group: dict[str, Any]) -> Conduct:
    """As ``conduct``, which is asked once for all of torch's own optimizers whose settings and weights are alike.

    Anyone else's may do what neither its settings nor its class tell, and is always tried.
    """
    kind, settings = type(optimizer), {name: value for name, value in group.items() if name != "params"}
    if not (kind.__module__.startswith("torch.optim.") and _plain(settings)):
        return conduct(optimizer, group)
    weights = tuple((tuple(w.shape), w.dtype, w.device) for w in group["params"])
    key = (kind, kind.step, tuple(sorted(settings.items())), weights)
    if key not in _seen:
        tried = conduct(optimizer, group)
        if tried.failure:  # it may have been the machine
            return tried
        if len(_seen) >= _MOST:
            _seen.clear()
        _seen[key] = tried
    return _seen[key]


def _plain(settings: Mapping[str, Any]) -> bool:
    """Whether settings are values that can't change in place."""
    values = [entry for value in settings.values() for entry in (value if type(value) is tuple else [value])]
    return all(type(value) in _PLAIN for value in values)
