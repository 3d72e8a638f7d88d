"""A record's text seen as a whole: whether it is plain, and whether it is what its checksum was made of. Torch-free.

Of ten thousand records nearly all are as they were written. To see that of one takes a fraction of the time of a
closer look, value by value, which ``results.record`` and ``results.schema`` have for every other.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any

import orjson

from dstbench.results.schema import DEPTH, TEXT

_ESCAPE = re.compile(r"\\(?:u[0-9a-f]{4}|.?)", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NO_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_SHOWN = bytes((*range(32, 127), 10))  # of ASCII
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_MANY = b"0" * 70
_GREAT = re.compile(rb"[+-]?0*(?:[3-9]\d|\d{3})")  # an exponent
_GREAT_SIGNED = re.compile(rb"e[+-](?:[3-9]\d|\d\d\d)")
_SMALL = re.compile(r"(?<![\d.])-?(?:0\.0000\d+|\d(?:\.\d+)?e-\d+)")
"""A float below 1e-4, for which json has an exponent of two digits and orjson often another form."""


def sealed_record(content: bytes) -> dict[str, Any] | None:
    """The record that a file holds, where that is ``is_plain``, names nothing twice, and matches its checksum.

    None where any of this isn't seen at once: then only the closer look says what is wrong, or that nothing is.
    """
    try:
        record = orjson.loads(content)  # refuses NaN, other encodings, halves of surrogate pairs
        text = _canonical({name: value for name, value in record.items() if name != "checksum"})
    except (ValueError, TypeError, AttributeError):
        return None
    matches = hashlib.sha256(text.encode()).hexdigest() == record.get("checksum")
    if not (matches and is_plain(text, canonical=True)):
        return None
    # no text has a quote in it, so each name and text has two: a name that is there twice would leave more
    return record if content.count(b'"') == text.count('"') + _OF_CHECKSUM else None


_OF_CHECKSUM = 4  # quotes


def _canonical(value: Any) -> str:
    """``results.record.canonical`` of what orjson read, if that ``is_plain``; else it may be another text."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    if not text.isascii():
        text = text.encode("ascii", "backslashreplace").decode().replace("\\x", "\\u00")
    if _may_be_small(text):
        parts = text.split('"')
        parts[::2] = [_SMALL.sub(_as_json, part) if _may_be_small(part) else part for part in parts[::2]]
        text = '"'.join(parts)
    return text


def _may_be_small(text: str) -> bool:
    return "0.0000" in text or "e-" in text


def _as_json(number: re.Match[str]) -> str:
    return repr(float(number[0]))


def is_plain(text: str, canonical: bool = False) -> bool:
    """Whether a valid JSON text can be seen as a whole to be printable, and to have no text longer than TEXT, no
    number beyond LARGEST or, but for 0, below SMALLEST, and no more than DEPTH levels: what is looked for value by
    value where it can't.

    Never true where one of these is there; false also where it takes a closer look, as with an escaped quote.
    canonical: json.dumps wrote it, whose exponents have a sign.
    """
    if not all(map(_is_letter, set(_ESCAPE.findall(text)))) or not _is_printable(text):
        return False
    if canonical and len(text) <= TEXT:  # so every text in it is short
        whole = text.encode()
        brackets = whole.translate(None, _NO_BRACKETS_OR_QUOTES).replace(b'""', b"")
        digits = whole.translate(_DIGITS)
        # a bracket in a text leaves a quote before it
        if not (b'"' in brackets or _MANY in digits or _GREAT_SIGNED.search(whole)):
            return _is_shallow(brackets)
    parts = text.split('"')  # none is escaped: every quote begins or ends a text
    if max(map(len, parts[1::2]), default=0) > TEXT:
        return False
    rest = "".join(parts[::2]).encode()
    return _is_shallow(rest.translate(None, _NO_BRACKETS)) and not _may_be_extreme(rest)


def _is_shallow(brackets: bytes) -> bool:
    """Whether brackets are nested in no more than DEPTH levels."""
    for _ in range(DEPTH // 2):  # each turn takes the innermost one or two levels away
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


@cache
def _is_letter(escape: str) -> bool:
    """Whether an escape of JSON is a printable character beyond ASCII, as json.dumps writes these."""
    return len(escape) == 6 and int(escape[2:], 16) >= 0x80 and chr(int(escape[2:], 16)).isprintable()


def _is_printable(text: str) -> bool:
    """Whether all but line feeds is; of ASCII, as json.dumps writes, without a look at each character."""
    return (
        not text.encode().translate(None, _SHOWN) if text.isascii() else text.replace("\n", "").isprintable()
    )


def _may_be_extreme(rest: bytes) -> bool:
    """Whether JSON without its texts may hold a number of 1e100 or more, or of 1e-100 or less: seventy digits in a
    row, or e30, or e-30."""
    if _MANY in rest.translate(_DIGITS) or b"E" in rest:  # what json.dumps writes has no E
        return True
    return any(map(_GREAT.match, rest.split(b"e")[1:]))
