"""Infinite values and NaN, told of by layer and by what they are, before something is decided by them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dstbench.api import LayerView
from dstbench.errors import NotFinite

_WORDS = {
    "weight": "weights",
    "grad": "gradients",
    "active_grad": "gradients of active weights",
    "momentum": "averages of gradients",
}  # by a LayerView's field


def check_finite(views: Mapping[str, LayerView], step: int) -> None:
    """Raise NotFinite for the first layer whose weights, or signals that were asked for, aren't all finite."""
    for name, view in views.items():
        if odd := not_finite(view):
            raise NotFinite(f"layer {name!r}, step {step}: {odd}: nothing can be decided by them")


def not_finite(view: LayerView) -> str:
    """Which of a layer's weights and signals aren't finite, and how many; empty where all are."""
    return _said({field: getattr(view, field) for field in _WORDS} | dict(view.extra))


def not_finite_of(fields: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The first layer whose signals aren't finite, and which these are; empty where all are.

    fields: LayerView's field -> layer name -> float [*w].
    """
    for name in next(iter(fields.values()), {}):
        if odd := _said({field: values[name] for field, values in fields.items()}):
            return f"layer {name!r}: {odd}"
    return ""


def _said(held: Mapping[str, Tensor | None]) -> str:
    """held: by LayerView's field, or name in its ``extra``."""
    counts = {field: (_odd(v), v.numel()) for field, v in held.items() if v is not None}
    parts = [
        f"{odd} of {size} {_WORDS.get(field, f'entries of {field!r}')}"
        for field, (odd, size) in counts.items()
        if odd
    ]
    return f"{' and '.join(parts)} aren't finite" if parts else ""


def _odd(values: Tensor) -> int:
    """How many are infinite or NaN. A sum tells in a tenth of the time that none is."""
    return 0 if bool(values.sum().isfinite()) else int((~values.isfinite()).sum())
