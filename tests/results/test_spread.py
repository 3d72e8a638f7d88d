"""What copies of this process do is what would have been done here."""

from __future__ import annotations

import os

import pytest

from dstbench.results import spread as module
from dstbench.results.spread import alongside, spread


@pytest.fixture
def forked(monkeypatch):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    monkeypatch.setattr(module, "_may_fork", lambda: True)
    monkeypatch.setattr(module, "_processors", lambda: 3)
    monkeypatch.setattr(module, "FEWEST", 2)


def test_many_things_are_shared_between_processes_in_their_order(forked):
    pids = spread(lambda thing: (thing, os.getpid()), range(10))
    assert [thing for thing, _ in pids] == list(range(10))
    assert len({pid for _, pid in pids}) == 3
    assert pids[0][1] == os.getpid()


@pytest.mark.parametrize("things", [[], [1], [1, 2, 3]])
def test_few_things_need_no_other_process(things):
    assert spread(lambda thing: (thing, os.getpid()), things) == [(thing, os.getpid()) for thing in things]


@pytest.mark.parametrize("trouble", ["raises", "dies", "can't be pickled"])
def test_what_fails_in_a_copy_is_done_here(forked, trouble):
    here = os.getpid()

    def task():
        if os.getpid() != here:
            if trouble == "raises":
                raise ValueError("no")
            if trouble == "dies":
                os._exit(1)
            return lambda: None
        return "done here"

    assert alongside(task)() == "done here"


def test_an_error_that_is_no_accident_is_raised_here(forked):
    with pytest.raises(ZeroDivisionError):
        alongside(lambda: 1 / 0)()


def test_boards_are_the_same_by_several_processes(forked, tmp_path, monkeypatch):
    from pathlib import Path

    from dstbench.report import page

    results = Path(__file__).parents[2] / "leaderboards" / "cifar10-10-epochs" / "results"
    page.write_leaderboards(results, tmp_path / "forked")
    monkeypatch.setattr(module, "_may_fork", lambda: False)
    page.write_leaderboards(results, tmp_path / "alone")
    forked, alone = (
        {file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())}
        for name in ("forked", "alone")
    )
    assert forked == alone
