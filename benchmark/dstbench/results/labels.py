"""Components and settings as people write them: in labels of methods and in columns. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dstbench.results.record import canonical


def spec_text(spec: Any) -> str:
    """``{"name": "rigl", "alpha": 0.3}`` -> ``"rigl(alpha=0.3)"``, in whatever order its parameters came."""
    if not isinstance(spec, Mapping):
        return str(spec)
    parameters = [f"{name}={value_text(value)}" for name, value in sorted(spec.items()) if name != "name"]
    return f"{spec.get('name')}({', '.join(parameters)})" if parameters else str(spec.get("name"))


def value_text(value: Any) -> str:
    """One parameter; a float that is a whole number reads like the integer, as both make the same key."""
    if isinstance(value, Mapping):
        return spec_text(value) if "name" in value else canonical(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return "+".join(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)
