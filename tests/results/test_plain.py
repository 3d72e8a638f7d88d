"""A text that is seen to be plain holds nothing that the closer look would find: properties of ``is_plain``."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstbench.results.schema import DEPTH, LARGEST, TEXT, escaped, is_plain
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
