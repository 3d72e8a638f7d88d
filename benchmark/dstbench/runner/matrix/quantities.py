"""Time and memory as people write them: ``2h``, ``3h50m``, ``8G``."""

from __future__ import annotations

import re
from typing import Any

_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
_UNITS = {"d": 86_400.0, "h": 3_600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(rf"{_NUMBER}\s*(d|h|min|m|s)\s*")
_TIME = re.compile(
    rf"(?:{_NUMBER}\s*d\s*)?(?:{_NUMBER}\s*h\s*)?(?:{_NUMBER}\s*m(?:in)?\s*)?(?:{_NUMBER}\s*s)?"
)
_MEMORY = re.compile(rf"{_NUMBER}\s*(?:([KMGT])i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def seconds(value: Any) -> Any:
    """``2h``, ``90m``, ``3h50m`` or ``1d`` in seconds; numbers, also as text, are seconds already.

    What isn't text comes back as it is. Raises ValueError for any other text.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not text or not _TIME.fullmatch(text):
        raise ValueError("expected a time such as 2h, 3h50m or 90s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text))


def bytes_of(value: Any) -> Any:
    """``8G`` or ``512M`` in bytes, in powers of 1024 as schedulers count them, with or without B or iB; numbers are
    bytes already.

    What isn't text comes back as it is. Raises ValueError for any other text.
    """
    if not isinstance(value, str):
        return value
    matched = _MEMORY.fullmatch(value.strip())
    if not matched:
        raise ValueError("expected an amount of memory such as 8G or 512M")
    number, unit = matched.groups()
    return round(float(number) * 1024 ** _POWERS[(unit or "").upper()])


def memory_text(size: float) -> str:
    """Bytes as people read them: ``3.1 GiB``."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.3g} {unit}"
    return f"{size:.0f} B"
