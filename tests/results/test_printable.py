from __future__ import annotations

import pytest

from dstbench.results.printable import cell, printable, shown


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain", "plain"), ("Δ dense ± 0.5 · 漢字 é", "Δ dense ± 0.5 · 漢字 é"), ("a\u00a0b", "a\u00a0b"),
        ("\x1b[31m", r"\x1b[31m"), ("\x9b31m\x7f", r"\x9b31m\x7f"), ("a\nb\t", r"a\nb\t"),
        ("\u202egnp.exe\u202c", r"\u202egnp.exe\u202c"), ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"),
        ("\udce9", r"\udce9"), ("\u2028\u2029\ufeff\u200b", r"\u2028\u2029\ufeff\u200b"),
        ("\uffff\U0001fffe", r"\uffff\U0001fffe"), ("\U000e0041", r"\U000e0041"), ("\U0001f4a5", "\U0001f4a5"),
    ],
)  # fmt: skip
def test_what_acts_is_escaped(text, safe):
    assert printable(text) == safe
    assert printable(safe) == safe


def test_what_is_kept_stays():
    assert printable("a\n\tb\x1b", kept="\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+cmd", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1", "-cmd"]
)
def test_a_formula_gets_an_apostrophe(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "-3", "0.5", "rigl", "erk · a", "−1", "a=b", "-inf", ""])
def test_numbers_and_words_stay(text):
    assert cell(text) == text


def test_values_in_messages_are_short_whatever_they_are():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("x" * 10**6, 16**5000, nested, list(range(10**5))):
        assert len(shown(value)) <= 60
    assert shown("\x1b") == r"'\x1b'"
