"""A text that ships as its grammar: the same sentences on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

LENGTH = 80_000  # characters
SYMBOLS = 35  # different ones

_WHO = ("fox", "crow", "miller", "mouse", "lion", "heron", "baker", "queen", "goat", "wolf", "tailor", "owl")
_HOW = ("old", "quick", "hungry", "proud", "small", "clever", "quiet", "young", "vain", "brave")
_WHAT = (
    "a cheese",
    "the moon",
    "a red cloak",
    "some bread",
    "her crown",
    "the well",
    "a golden egg",
    "his drum",
)
_DOES = ("watch", "want", "follow", "find", "hide", "share", "guard", "trade")
_SAYS = ("said", "asked", "whispered", "cried")
_WHERE = ("by the river", "under the oak", "in the mill", "on the hill", "behind the barn", "at the gate")
_WHEN = ("One morning", "In winter", "At night", "Long ago", "Then", "Soon")
_WHY = ("because", "while", "until", "although")


@cache
def text() -> str:
    """LENGTH characters of fables. RandomState, because its stream is frozen across numpy's versions."""
    rng = np.random.RandomState(0)
    sentences: list[str] = []
    written = 0
    while written <= LENGTH:
        ending = "\n\n" if rng.randint(6) == 0 else " "
        sentences.append(_sentence(rng) + ending)
        written += len(sentences[-1])
    return "".join(sentences)[:LENGTH]


def _sentence(rng: np.random.RandomState) -> str:
    kind = rng.randint(4)
    if kind == 0:
        return f"{_pick(rng, _WHEN)} {_clause(rng)} {_pick(rng, _WHERE)}."
    if kind == 1:
        spoken = f"{_number(rng)} {_pick(rng, _WHERE)}"
        return f'"I {_pick(rng, _DOES)} {spoken}," {_pick(rng, _SAYS)} {_someone(rng)}.'
    if kind == 2:
        clause = _clause(rng)
        return f"{clause[0].upper()}{clause[1:]} {_pick(rng, _WHY)} {_clause(rng)}."
    clause = _clause(rng)
    return f"{clause[0].upper()}{clause[1:]}, and {_clause(rng)}."


def _clause(rng: np.random.RandomState) -> str:
    """One of them watches, or several watch: the verb agrees."""
    verb = _pick(rng, _DOES)
    if rng.randint(3) == 0:
        return f"{_number(rng)} {verb} {_pick(rng, _WHAT)}"
    return f"{_someone(rng)} {verb}{'es' if verb.endswith('ch') else 's'} {_pick(rng, _WHAT)}"


def _someone(rng: np.random.RandomState) -> str:
    how = f"{_pick(rng, _HOW)} " if rng.randint(2) else ""
    return f"the {how}{_pick(rng, _WHO)}"


def _number(rng: np.random.RandomState) -> str:
    who = _pick(rng, _WHO)
    many = {"fox": "foxes", "mouse": "mice", "wolf": "wolves"}.get(who, f"{who}s")
    return f"{_pick(rng, ('two', 'three', 'seven'))} {many}"


def _pick(rng: np.random.RandomState, words: Sequence[str]) -> str:
    return words[rng.randint(len(words))]
