"""The conformance kit: finds the mistakes in a strategy before a benchmark does. For plugins' own tests.

    from dstbench.testing import check_component

    def test_conformance():
        assert check_component("grow", "my-score") == []

The checks of one object (``check_score(MyScore())``) need no registration. Each returns a list of Problem.
"""

from __future__ import annotations

from dstbench.testing.assigned import check_values
from dstbench.testing.components import check_component, check_loading, problems
from dstbench.testing.foldings import check_accumulator
from dstbench.testing.problem import Problem
from dstbench.testing.schedules import check_schedule
from dstbench.testing.strategies import check_policy, check_score, check_share
from dstbench.testing.structures import check_structure

__all__ = [
    "Problem",
    "check_accumulator",
    "check_component",
    "check_loading",
    "check_policy",
    "check_schedule",
    "check_score",
    "check_share",
    "check_structure",
    "check_values",
    "problems",
]
