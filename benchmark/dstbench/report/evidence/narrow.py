"""Which trials a question is about: those with some of the choices, models, data sets, densities or seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dstbench.errors import BadInput, nearest
from dstbench.hookspecs import STRATEGIES
from dstbench.report.published.beside import bare
from dstbench.report.table_rows import rows_of
from dstbench.report.values import is_missing
from dstbench.results.labels import value_text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Mapping[str, str] = {
    "model": "model", "dataset": "dataset", "density": "density_requested", "seed": "seed", "method": "label",
} | {kind: kind for kind in STRATEGIES}  # fmt: skip
"""Axis -> the column of ``load_results`` that has it."""
_COMMA = re.compile(r",\s*(?![^()]*\))")  # that is in no parentheses


def narrowed(trials: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The trials of a frame from ``load_results`` that meet all conditions: ``structure=channel``, or one of several
    values, ``seed=0,1``. A name without parameters stands for it with any. What has no such choice, as dense has no
    structure, stays.

    Raises BadInput: no condition, an unknown axis, or a value that no trial has.
    """
    for condition in conditions:
        axis, equals, text = condition.partition("=")
        if not equals or not text:
            raise BadInput(f"--where {condition}: expected AXIS=VALUE, such as structure=unstructured")
        if axis not in COLUMNS:
            raise BadInput(f"--where {condition}: unknown axis {axis!r}{nearest(axis, COLUMNS)}")
        rows = rows_of(trials[[COLUMNS[axis]]])
        there = [None if is_missing(row[COLUMNS[axis]]) else value_text(row[COLUMNS[axis]]) for row in rows]
        wanted = [_number(value) for value in _COMMA.split(text)]
        for value in wanted:
            if not any(_is(value, one) for one in there if one is not None):
                known = dict.fromkeys(one for one in there if one is not None)
                raise BadInput(f"--where {condition}: no trial has {axis} {value!r}{nearest(value, known)}")
        trials = trials[[one is None or any(_is(value, one) for value in wanted) for one in there]]
    return trials


def _is(wanted: str, there: str) -> bool:
    return wanted in (there, bare(there))


def _number(text: str) -> str:
    """A number as ``value_text`` has it: ``0.10`` is ``0.1``."""
    for kind in (int, float):
        try:
            return value_text(kind(text))
        except ValueError:
            pass
    return text
