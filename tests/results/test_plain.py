"""A text that is seen to be plain holds nothing that the closer look would find, and a record that is seen at once is
the one that it would read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstbench.results.plain_text import is_plain, sealed_record
from dstbench.results.record import canonical, checksum
from dstbench.results.schema import DEPTH, LARGEST, TEXT, escaped
from dstbench.results.schema import _oversized as oversized

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["\x1b[2J", 'a"b', "\\", "\\u0022", "[[", "e99", "\u202e", "ü · ×"]
)
NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.sampled_from([10**90, 1e100, 2e101])
)
VALUES = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


def nested(levels):
    value = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@given(value=VALUES, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_what_is_plain_needs_no_closer_look(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if is_plain(text):
        assert escaped(value) == value
        assert oversized(value, "") is None


@pytest.mark.parametrize(
    "value",
    [
        "\x1b",
        "\u202e",
        "\ud800",
        "x" * (TEXT + 1),
        {"x" * (TEXT + 1): 1},
        10 * LARGEST,
        -1e101,
        10**101,
        nested(DEPTH + 1),
        nested(200),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_needs_a_closer_look_is_not_plain(value, ascii_only):
    assert not is_plain(json.dumps({"a": [value]}, ensure_ascii=ascii_only))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_like_ours_is_plain(indent):
    record = {
        "label": "erk · set",
        "measures": {"flops": 2.5e18, "p": 1e-9, "none": None},
        "ok": [True, [{}]],
    }
    assert is_plain(json.dumps(record, indent=indent))
    assert is_plain(json.dumps(nested(DEPTH // 2)))


def text_of(record, **written):
    return json.dumps(record | {"checksum": checksum(record)}, **written)


@given(value=VALUES, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_what_is_seen_at_once_is_what_the_closer_look_reads(value, indent, ascii_only):
    text = text_of({"label": "erk · set", "value": value}, indent=indent, ensure_ascii=ascii_only)
    seen = sealed_record(text.encode("utf-8", "surrogatepass"))
    if seen is not None:
        assert repr(seen) == repr(json.loads(text))
        assert is_plain(canonical(seen))


SMALL = [1e-4, 9.99e-5, 1e-5, -1.5e-5, 1e-06, -2.5e-7, 1.25e-10, 10.00001, 0.00012, 5e-29, -0.0, 0.1 + 0.2]
GREAT = [1e15, 1e16, 1.5e22, -1e23, 123456789012345680.0, 2**53, -(2**63), 2**64 - 1]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("number", SMALL + GREAT, ids=repr)
def test_a_record_as_ours_are_written_is_seen_at_once(number, indent, ascii_only):
    record = {"label": "erk · £ 语", "measures": {"p": [number, None, True], "q": number}, "trial": {}}
    text = text_of(record, indent=indent, ensure_ascii=ascii_only)
    assert repr(sealed_record(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"a": 1', '"a": 2'),
        lambda text: text.replace('"a": 1', '"a": 7, "a": 1'),
        lambda text: text.replace('"a": 1', '"a": 1, "a": 1'),
        lambda text: text.replace('"a": 1', '"\\u0061": 7, "a": 1'),
        lambda text: text.replace('"checksum"', '"checksum": "0", "checksum"'),
        lambda text: text.replace('"a": 1', '"a": NaN'),
        lambda text: text.replace('"a": 1', '"a": 1.0'),
        lambda text: text + "x",
        lambda text: text[:-1],
        lambda text: "\ufeff" + text,
        lambda text: f"[{text}]",
        lambda text: '"text"',
    ],
)
def test_what_was_changed_takes_a_closer_look(change):
    text = text_of({"label": "rigl", "a": 1, "b": ["1e-05", ":1e-05,", 1e-05]})
    assert sealed_record(text.encode()) is not None
    assert sealed_record(change(text).encode()) is None


@pytest.mark.parametrize("level", [DEPTH // 2 - 2, DEPTH + 1])
def test_brackets_in_texts_hide_no_levels(level):
    """Texts whose brackets would close what is open, one after each level."""
    value = 1
    for _ in range(level):
        value = ["]", value, "["]
    text = text_of({"a": value})
    assert (sealed_record(text.encode()) is not None) == (level < DEPTH)
