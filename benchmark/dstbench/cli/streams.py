"""Standard streams that take every character: ASCII, cp1252 and other terminals get the nearest that they have."""

from __future__ import annotations

import codecs
import io
import sys

_NEAREST = str.maketrans(
    {"×": "x", "±": "~", "–": "-", "−": "-", "─": "-", "·": ".", "◂": "<", "Δ": "d", "…": ".", "≤": "<", "≥": ">",
     "→": ">", "α": "a", "β": "b", "“": '"', "”": '"', "’": "'"}
)  # fmt: skip


def forgive() -> None:
    """Let stdout and stderr replace what their encoding lacks; one character stays one, so columns stay in line."""
    codecs.register_error("dstbench.nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="dstbench.nearest")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """The characters that look alike; "?" where there is none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_NEAREST)
    return "".join(_kept(character, error.encoding) for character in lacking), error.end


def _kept(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeError:
        return "?"
    return character
