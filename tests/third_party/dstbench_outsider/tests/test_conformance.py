"""What an outside author runs."""

from __future__ import annotations

import pytest

import dstbench
from dstbench.testing import check_component

MINE = [
    (kind, name)
    for kind, components in dstbench.registry().items()
    for name, component in components.items()
    if component.distribution == "dstbench-outsider"
]


def test_all_of_it_is_registered():
    assert {name for _, name in MINE} >= {"snr", "ragged_n_of_m", "square_root", "linear", "outsider", "peak"}


@pytest.mark.parametrize(("kind", "name"), MINE)
def test_conformance(kind, name):
    problems = check_component(kind, name)
    assert not problems, "\n".join(map(str, problems))
