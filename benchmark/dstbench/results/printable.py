"""Text as a terminal, a page, a picture or a spreadsheet may safely show it. Torch-free."""

from __future__ import annotations

import re
import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what isn't shown but acts: control characters, invisible formats (those that turn the
direction of writing among them), halves of surrogate pairs, and separators of lines."""
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")  # and their full-width forms


def printable(text: str, kept: str = "") -> str:
    """``text`` with what acts instead of being shown as its escape: ESC becomes ``\\x1b``. ``kept`` stays."""
    if text.isprintable():
        return text
    return "".join(
        character if character in kept or not _acts(character) else _escape(character) for character in text
    )


def shortened(text: str, most: int) -> str:
    """``text``, or its beginning with an ellipsis where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def shown(value: object, most: int = 60) -> str:
    """A value for a message: its ``repr``, which escapes what isn't printable, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list nested as deep
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def cell(text: str) -> str:
    """A text for a CSV file: what a spreadsheet would run as a formula gets an apostrophe before it (OWASP, CSV
    injection). Numbers stay numbers."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _acts(character: str) -> bool:
    """Noncharacters, too: no XML may hold U+FFFE and U+FFFF."""
    return unicodedata.category(character) in HIDDEN or (ord(character) & 0xFFFE) == 0xFFFE


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip()


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``, ``2,000 trials``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
