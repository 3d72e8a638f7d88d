"""Following workers that live, die, are replaced, or are gone for good: the folder decides what became of trials."""

from dataclasses import dataclass, field, replace

import pytest

from dstbench.errors import BadInput
from dstbench.results.record import read_record, write_record
from dstbench.runner.cluster import follow as following
from dstbench.runner.cluster.follow import Census, follow, open_jobs
from dstbench.runner.execution.lease import acquire
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.worker import ELSEWHERE, record_death, record_skip, work
from dstbench.runner.matrix.planned import Tuned
from fakes.jobs import TRIAL, job

KEYS = ["aa" * 16, "bb" * 16, "cc" * 16]


@pytest.fixture(autouse=True)
def without_pause(monkeypatch):
    monkeypatch.setattr(following, "PAUSE", 0.0)


@dataclass
class Script:
    """Workers that do at each census what a list of functions says, and are as many as it returns."""

    steps: list = field(default_factory=list)
    started: list = field(default_factory=list)
    refuse: int = 0  # how often the cluster takes none

    def start(self, number):
        if self.refuse:
            self.refuse -= 1
            raise BadInput("none taken")
        self.started.append(number)

    def census(self):
        return self.steps.pop(0)() if self.steps else None

    def last_words(self):
        return "job 7_0 is FAILED"


def order_of(root, keys=KEYS, timed=()):
    train = tuple(job(root, key) for key in keys)
    throughput = tuple(job(root, key, phase="throughput", task="fakes.trials:measure") for key in timed)
    return Order(root, train, throughput)


def ends(order, workers):
    events = []
    follow(order, workers, events.append)
    return {(e.job.phase, e.job.key): (e.status, e.reason) for e in events if e.kind == "finished"}


def test_ends_are_told_as_they_come_until_nothing_is_open(tmp_path):
    order = order_of(tmp_path)
    first, second, third = order.train

    def one(*jobs):
        def step():
            for done in jobs:
                work(done, 1)
            return Census(1)

        return step

    def dies():
        record_death(third, "killed", "killed by SIGKILL", 1.0)
        return Census(1)

    workers = Script([one(first), one(), lambda: None, one(second), dies])
    assert ends(order, workers) == {
        ("train", first.key): ("ok", None),
        ("train", second.key): ("ok", None),
        ("train", third.key): ("killed", "killed by SIGKILL"),
    }
    assert workers.started == []


def test_what_was_done_before_is_told_as_such(tmp_path):
    order = order_of(tmp_path, KEYS[:1])
    work(order.train[0], 1)
    assert ends(order, Script()) == {("train", KEYS[0]): ("cached", None)}


def test_a_trial_is_timed_behind_its_training_and_only_if_that_ended_well(tmp_path):
    order = order_of(tmp_path, KEYS[:2], timed=KEYS[:2])
    well, ill = order.train

    def trained():
        work(well, 1)
        record_skip(ill, "impossible")
        return Census(1)

    def timed():
        work(order.throughput[0], 1)
        return Census(1)

    assert list(ends(order, Script([trained, timed])).items()) == [
        (("train", well.key), ("ok", None)),
        (("train", ill.key), ("skipped", "impossible")),
        (("throughput", well.key), ("ok", None)),
    ]


def test_an_order_counts_each_open_trial_once(tmp_path):
    order = order_of(tmp_path, KEYS, timed=KEYS)
    assert [j.key for j in open_jobs(order)] == KEYS
    work(order.train[0], 1)
    assert [(j.phase, j.key) for j in open_jobs(order)] == [
        ("train", KEYS[1]), ("train", KEYS[2]), ("throughput", KEYS[0]),
    ]  # fmt: skip


def test_workers_that_die_are_replaced(tmp_path):
    order = order_of(tmp_path, KEYS[:1])

    def finished():
        work(order.train[0], 1)
        return Census(1)

    workers = Script([lambda: Census(1, died=1), lambda: Census(0, died=2), finished])
    assert ends(order, workers) == {("train", KEYS[0]): ("ok", None)}
    assert workers.started == [1, 1]  # never more than what is open


def test_a_cluster_that_takes_none_for_a_while_is_asked_again(tmp_path):
    order = order_of(tmp_path, KEYS[:1])

    def finished():
        work(order.train[0], 1)
        return Census(1)

    workers = Script([lambda: Census(0, died=1), lambda: Census(0), finished], refuse=1)
    assert ends(order, workers) == {("train", KEYS[0]): ("ok", None)}
    assert workers.started == [1]


def test_workers_that_die_again_and_again_are_given_up_with_the_reason(tmp_path):
    order = order_of(tmp_path, KEYS, timed=KEYS[:1])
    workers = Script([lambda: Census(0, died=3)] * 20)
    lost = ("lost", "no worker is left; job 7_0 is FAILED")
    assert ends(order, workers) == {("train", key): lost for key in KEYS}
    assert workers.started == [3] * following.PATIENCE
    assert not isinstance(read_record(order.train[0].folder), dict)  # the trials stay open


def test_a_trial_that_ends_in_between_buys_patience(tmp_path):
    order = order_of(tmp_path, KEYS)
    left = list(order.train)

    def dies(after=0):
        def step():
            if after:
                work(left.pop(0), 1)
            return Census(0, died=1)

        return step

    steps = [dies(), dies(), dies(1), dies(), dies(), dies(1), dies(), dies(), dies(1)]
    assert set(ends(order, Script(steps)).values()) == {("ok", None)}


def test_nobody_waits_for_workers_that_were_cancelled(tmp_path):
    order = order_of(tmp_path, KEYS[:1])
    workers = Script([lambda: Census(1), lambda: Census(0)])
    assert ends(order, workers) == {("train", KEYS[0]): ("lost", "no worker is left; job 7_0 is FAILED")}
    assert workers.started == []


def test_what_the_last_worker_wrote_counts_though_it_comes_late(tmp_path, monkeypatch):
    order = order_of(tmp_path, KEYS[:1])
    monkeypatch.setattr(following, "_pause", lambda _: work(order.train[0], 1))
    assert ends(order, Script([lambda: Census(0)])) == {("train", KEYS[0]): ("ok", None)}


@pytest.mark.parametrize(("word", "told"), [("run", ["killed", "ok"]), (None, ["killed", "ok", "ok"])])
def test_after_a_failure_only_what_runs_is_waited_for_where_that_is_asked_for(tmp_path, word, told):
    order = order_of(tmp_path)
    order = replace(order, train=tuple(replace(job, stops_with=word) for job in order.train))
    failed, running, waiting = order.train
    lease = acquire(running.folder)

    def fails():
        record_death(failed, "killed", "killed by SIGKILL", 1.0)
        return Census(1)

    def goes_on():
        return Census(0, died=1)  # a worker that sees the failure ends

    def finished():
        work(running, 1, lease)
        lease.release()
        if word is None:
            work(waiting, 1)
        return Census(1)

    events, script = [], Script([fails, goes_on, goes_on, finished])
    follow(order, script, events.append)
    assert [event.status for event in events if event.kind == "finished"] == told
    assert script.started == ([] if word else [1, 1])


def test_a_result_that_can_not_be_trusted_is_told(tmp_path):
    order = order_of(tmp_path, KEYS[:1])

    def garbage():
        order.train[0].folder.mkdir(parents=True)
        (order.train[0].folder / "result.json").write_text("{")
        return Census(1)

    [(status, reason)] = ends(order, Script([garbage])).values()
    assert status == "failed"
    assert "not valid JSON" in reason


def test_a_failed_trial_is_followed_to_its_new_end(tmp_path):
    [done] = order_of(tmp_path, KEYS[:1]).train
    before = write_record({**_row(done), "status": "failed", "reason": "once"}, done.folder)
    again = job(tmp_path, KEYS[0], retry=frozenset({"failed"}), replaces=before["checksum"])

    def fails():
        write_record({**_row(again), "status": "failed", "reason": "twice"}, again.folder)
        return Census(1)

    assert ends(Order(tmp_path, (again,)), Script([fails])) == {("train", KEYS[0]): ("failed", "twice")}


def _row(of):
    return {"key": of.key, "trial": of.trial.to_json(), "label": of.label}


def test_candidates_count_once_and_what_was_passed_over_is_not_told(tmp_path):
    rates, keys = (0.1, 0.5), (KEYS[0], KEYS[1])
    options = {"task": "fakes.trials:by_rate", "settings": {}}
    tuning = [
        job(tmp_path, key, trial=replace(trial_at(rate), evaluated="validation"), **options)
        for key, rate in zip(keys, rates, strict=True)
    ]
    finals = [
        job(
            tmp_path, f"{i}d" * 16, trial=trial_at(rate), **options,
            tuned=Tuned("0d" * 16, ({"lr": 0.1}, {"lr": 0.5}), ((keys[0],), (keys[1],)), i),
        )
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    order = Order(tmp_path, (*tuning, *finals))
    assert len(open_jobs(order)) == 3

    def step(*jobs):
        return lambda: ([work(one, 1) for one in jobs], Census(1))[1]

    assert work(finals[0], 1) == ELSEWHERE  # not decided yet
    workers = Script([step(tuning[0]), step(tuning[1]), step(*finals)])
    assert list(ends(order, workers).items()) == [
        (("train", keys[0]), ("ok", None)),
        (("train", keys[1]), ("ok", None)),
        (("train", finals[0].key), ("ok", None)),
    ]
    assert not (finals[1].folder / "result.json").exists()
    again = Order(
        tmp_path, tuple(replace(one, folder=tmp_path / "b" / one.key[:2] / one.key) for one in order.train)
    )
    dead = Script([lambda: Census(0, 1)] * 9, refuse=99)
    assert [status for status, _ in ends(again, dead).values()] == ["lost"] * 3


def trial_at(rate):
    return replace(TRIAL, training=TRIAL.training.model_copy(update={"lr": rate}))
