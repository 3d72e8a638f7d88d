"""Runs of tuned matrices: tuning trials first, then those that were chosen, whoever runs them and whenever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.results.merge import merge, validate
from dstbench.results.record import folder_of, read_record, write_record
from dstbench.results.table import load_results, read
from dstbench.results.tuning import TUNED
from dstbench.runner.cluster.follow import open_jobs
from dstbench.runner.execution.claim import claim, find_open
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.plan_file import read_plan, read_plans, write_plan
from dstbench.runner.execution.run import run
from dstbench.runner.execution.status import status
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from fakes import inline


@pytest.fixture(autouse=True)
def _inline(request, monkeypatch):
    if "warm_server" not in request.fixturenames:
        inline.use(monkeypatch)


TASKS = Tasks("fakes.trials:by_rate", "fakes.trials:measure")
MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {
        "model": "small_cnn",
        "dataset": "digits",
        "density": 0.1,
        "recipe": ["rigl", "set"],
        "seed": [0, 1],
    },
    "controls": [],
    "training": {"epochs": 1},
    "measure": {"throughput": False},
    "tune": {"lr": [0.08, 0.04, 0.3]},
}


def go(out, *settings, matrix=MATRIX, tasks=TASKS, **options):
    return run(matrix, out, settings=settings, tasks=tasks, workers=2, device="cpu", **options)


def record_of(out, key):
    return read_record(folder_of(out, key))


def rates(done):
    return sorted(trial.trial.training.lr for trial in done.plan.trials)


class Interrupting:
    """Ctrl-C once so many tuning trials have ended."""

    def __init__(self, after):
        self.left = after

    def __call__(self, event):
        self.left -= event.kind == "finished" and event.job.trial.tunes
        if self.left <= 0:
            raise KeyboardInterrupt


def test_every_method_is_trained_with_the_rate_that_was_best_on_validation_data(tmp_path, warm_server):
    events = []
    done = go(tmp_path, progress=events.append)
    assert (done.counts, done.ran, done.ok, rates(done)) == ({"ok": 4}, 10, True, [0.08] * 4)
    assert list(done.tuning.values()) == ["ok"] * 6
    ended = [event.job for event in events if event.kind == "finished"]
    assert all(job.trial.training.lr == 0.08 for job in ended if not job.trial.tunes)
    said = [record_of(tmp_path, trial.key)["provenance"] for trial in done.plan.trials]
    assert [one[TUNED]["chosen"] for one in said] == [{"lr": 0.08}] * 4
    assert said[0]["tuning"].startswith("lr of 0.08, 0.04, 0.3, on validation data of seed 0")
    again = go(tmp_path, progress=events.append)
    assert (again.counts, again.ran, rates(again)) == ({"ok": 4}, 0, [0.08] * 4)


def test_an_untuned_matrix_with_the_rate_has_the_same_trials(tmp_path):
    done = go(tmp_path)
    plain = go(tmp_path, "training.lr=0.08")
    assert (plain.ran, plain.tuning) == (0, {})
    assert plain.statuses.keys() == done.statuses.keys()


def test_trials_that_were_there_untuned_say_their_tuning_and_are_not_trained_again(tmp_path, warm_server):
    plain = go(tmp_path, "training.lr=0.08")
    before = {key: record_of(tmp_path, key) for key in plain.statuses}
    done = go(tmp_path)
    assert (done.ran, done.counts) == (6, {"ok": 4})
    for key, record in before.items():
        after = record_of(tmp_path, key)
        assert after["measures"] == record["measures"]
        assert after["provenance"].pop(TUNED)["settings"] == {"lr": 0.08}
        assert after["provenance"] == record["provenance"]


def test_less_is_better_where_the_metric_says_so(tmp_path):
    done = go(tmp_path, tasks=Tasks("fakes.trials:by_rate_lower", TASKS.measure))
    assert rates(done) == [0.08] * 4
    tuned = record_of(tmp_path, done.plan.trials[0].key)["provenance"][TUNED]
    assert tuned["better"] == "lower"
    assert [one["score"] for one in tuned["candidates"]] == pytest.approx([12.0, 16.0, 30.0])


def test_a_rate_that_diverges_is_worst_and_stops_nothing(tmp_path):
    done = go(tmp_path, "tune.lr=5,0.3,2", on_error="stop")
    assert (rates(done), done.ok) == ([0.3] * 4, True)
    assert sorted(done.tuning.values()) == ["diverged"] * 4 + ["ok"] * 2


def test_where_all_rates_fail_the_trials_are_rows_that_say_so_and_the_rest_goes_on(tmp_path):
    done = go(tmp_path, "density=0.1,0.5", "seed=0")
    assert (done.counts, done.ok) == ({"failed": 2, "ok": 2}, False)
    failed = [t for t in done.plan.trials if t.trial.density == 0.5]
    for trial in failed:
        record = record_of(tmp_path, trial.key)
        assert (record["status"], record["phase"]) == ("failed", "tune")
        assert record["reason"].startswith("tuning: every candidate failed")
        assert "lr=0.3: diverged: the training loss is nan" in record["reason"]
        assert record["provenance"][TUNED]["chosen"] is None
    assert go(tmp_path, "density=0.1,0.5", "seed=0").ran == 0
    better = Tasks("fakes.trials:by_rate_lower", TASKS.measure)
    assert go(tmp_path, "density=0.1,0.5", "seed=0", tasks=better, retry=["failed"]).ran == 2


def test_on_error_stop_ends_at_the_first_method_of_which_every_rate_failed(tmp_path):
    done = go(tmp_path, "density=0.5", "seed=0", "recipe=rigl", on_error="stop")
    assert done.counts == {"failed": 1}
    later = go(tmp_path, "density=0.5,0.1", "seed=0", "recipe=rigl", on_error="stop", retry=["failed"])
    assert "failed" in later.counts


def test_a_failed_trial_that_is_tried_again_has_one_job_also_where_tuning_changed(tmp_path):
    rigl = ("recipe=rigl", "seed=0")
    plain = go(tmp_path, *rigl, "training.lr=0.08", tasks=Tasks("fakes.trials:behave", TASKS.measure))
    [key] = plain.statuses
    folder = folder_of(tmp_path, key)
    write_record({**record_of(tmp_path, key), "status": "failed", "reason": "once"}, folder)
    go(tmp_path, *rigl)
    assert record_of(tmp_path, key)["status"] == "failed"
    done = go(tmp_path, *rigl, "tune.lr=0.08,0.04", retry=["failed"])
    assert (done.ran, done.counts) == (1, {"ok": 1})
    for file in (tmp_path / "plans").iterdir():
        keys = [job.key for job in read_plan(file).train]
        assert len(keys) == len(set(keys))


def test_rates_that_are_tried_again_are_waited_for(tmp_path):
    go(tmp_path, "tune.lr=2,0.3")
    # the same trials, which no longer diverge: of 2 the loss is least
    done = go(
        tmp_path, "tune.lr=2,0.3", tasks=Tasks("fakes.trials:behave", TASKS.measure), retry=["diverged"]
    )
    assert (done.ran, sorted(done.tuning.values())) == (2, ["ok"] * 4)
    assert done.counts == {"ok": 4}


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_run_that_was_stopped_in_or_after_tuning_goes_on_and_comes_to_the_same(after, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(after))
    done = go(tmp_path)
    assert (done.counts, rates(done)) == ({"ok": 4}, [0.08] * 4)
    assert done.ran <= 10 - after


def test_a_worker_that_comes_late_goes_on_with_the_plan_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(6))
    counts = status(tmp_path)["counts"]
    assert (counts["to tune"], counts["to train"] + counts["ok"], counts["trials"]) == (0, 10, 10)
    assert len(find_open(tmp_path).order.train) == counts["to train"]
    assert not claim(tmp_path, workers=2, on_event=lambda event: None)
    assert rates(go(tmp_path)) == [0.08] * 4
    assert status(tmp_path)["counts"]["trials"] == 10


def test_what_is_open_is_said_once_a_trial(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(1))
    [file] = (tmp_path / "plans").iterdir()
    order = read_plan(file)
    said = status(tmp_path)
    left = said["counts"]["to tune"]
    assert left == 5
    assert (said["counts"]["to train"], said["counts"]["trials"]) == (4, 10)
    assert sum(one["waits"] for one in said["open"]) == 4
    assert len(open_jobs(order)) == len(find_open(tmp_path).order.train) == left + 4
    assert len(order.train) > left + 4  # with all candidates
    write_plan(order, "again")
    assert sum(job.tuned is not None for job in read_plans(tmp_path)[0].train) == 12


def test_two_workers_that_end_the_last_tuning_trials_together_choose_the_same(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Interrupting(1))
    [file] = (tmp_path / "plans").iterdir()
    order = read_plan(file)
    file.unlink()
    write_plan(replace(order, preload=("fakes.trials",)), "light")  # no worker needs torch
    command = [sys.executable, "-m", "dstbench", "worker", str(tmp_path), "--claim", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for worker in workers:
        worker.communicate(timeout=240)
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(read(tmp_path).records) == 4
    assert rates(done := go(tmp_path)) == [0.08] * 4
    assert done.ran == 0


def test_a_wider_grid_tries_what_is_new_and_old_rows_say_what_was_chosen_in_their_place(tmp_path):
    go(tmp_path, "recipe=rigl", "tune.lr=0.04,0.06")
    assert set(load_results(tmp_path)["tuned"]) == {"lr=0.06 (at the edge of the grid)"}
    done = go(tmp_path, "recipe=rigl", "tune.lr=0.04,0.06,0.08,0.3")
    assert (done.ran, rates(done)) == (4, [0.08, 0.08])
    table = load_results(tmp_path).sort_values("training")
    assert table["tuned"].tolist() == ["lr=0.08, in place of this"] * 2 + ["lr=0.08"] * 2
    assert table["training"].tolist() == ["epochs=1, lr=0.06"] * 2 + ["epochs=1, lr=tuned"] * 2
    same = go(tmp_path, "recipe=rigl", "tune.lr=0.04,0.06,0.08,0.09")
    assert rates(same) == [0.09, 0.09]


def test_a_rate_that_stays_the_best_of_a_wider_grid_is_no_longer_at_its_edge(tmp_path):
    first = go(tmp_path, "recipe=rigl", "tune.lr=0.04,0.08")
    done = go(tmp_path, "recipe=rigl", "tune.lr=0.04,0.08,0.3")
    assert (done.ran, done.statuses) == (1, first.statuses)
    assert set(load_results(tmp_path)["tuned"]) == {"lr=0.08"}


def test_one_choice_over_several_densities(tmp_path):
    done = go(tmp_path, "density=0.1,0.5", "seed=0", "tune.per=method")
    assert rates(done) == [0.08] * 4  # of 0.5 all fail, whatever is chosen
    assert done.counts == {"ok": 2, "diverged": 2}


def test_tuning_trials_are_merged_and_validated_and_on_no_board(tmp_path):
    shards = [go(tmp_path / str(i), shard=f"{i}/2").out for i in (1, 2)]
    merged = merge([shard for shard in shards if shard.is_dir()], tmp_path / "all")
    assert (len(merged.copied), merged.conflicts) == (10, ())
    known = validate(tmp_path / "all")
    assert (known.ok, known.tuning, known.rejected) == (10, 6, ())
    assert (len(load_results(tmp_path / "all")), len(load_results(tmp_path / "all", tuning=True))) == (4, 6)
    assert load_results(tmp_path / "all", tuning=True)["top1"].isna().all()
    assert go(tmp_path / "all").ran == 0


def test_a_tuning_record_that_cannot_be_trusted_counts_as_a_failure_and_is_named(tmp_path):
    best = next(
        t for t in plan(load_matrix(MATRIX, ["recipe=rigl"]), registry()).tuning if t.settings["lr"] == 0.08
    )
    folder = folder_of(tmp_path, best.key)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")
    done = go(tmp_path, "recipe=rigl")
    assert (rates(done), done.ok) == ([0.04, 0.04], False)
    assert [rejected.path.parent.name for rejected in done.rejected] == [best.key]
    assert rates(go(tmp_path, "recipe=rigl", retry=["invalid"])) == [0.08, 0.08]


def test_tuning_trials_that_are_gone_are_not_waited_for_for_ever(tmp_path):
    done = go(tmp_path)
    [file] = (tmp_path / "plans").iterdir()
    order = read_plan(file)
    waiting = [replace(job, folder=folder_of(tmp_path / "b", job.key)) for job in order.train if job.tuned]
    write_plan(replace(order, results=tmp_path / "b", train=tuple(waiting)), "test")
    events = []
    left = claim(tmp_path / "b", workers=2, on_event=events.append)
    assert left  # the plan's tuning trials are no part of it
    assert {(event.status, event.reason) for event in events} == {
        ("elsewhere", "its tuning trials are nowhere to be run")
    }
    assert len(done.plan.trials) == len(events)


def test_a_plan_that_wants_a_trial_anyway_goes_before_one_that_may_not(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "training.lr=0.04", progress=Stopping())
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, progress=Stopping())
    claim(tmp_path, workers=2, on_event=lambda event: None)
    trained = {json.dumps(record["trial"]["training"]) for record in read(tmp_path).records}
    assert trained == {'{"epochs": 1, "lr": 0.04}', '{"epochs": 1, "lr": 0.08}'}


class Stopping:
    """Ctrl-C before anything has run."""

    def __call__(self, event):
        raise KeyboardInterrupt


def test_data_without_a_validation_split_is_refused_before_anything_starts(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("a text by characters. " * 200)
    matrix = {
        **MATRIX,
        "axes": {
            "model": {"name": "gpt", "layers": 1, "heads": 1, "dim": 8},
            "dataset": {"name": "text", "file": str(text), "block": 8, "validation": 0},
            "density": 0.5, "recipe": "set",
        },
    }  # fmt: skip
    with pytest.raises(BadInput, match=r"tune: the data set text\(.*validation=0\) has no validation split"):
        go(tmp_path / "out", matrix=matrix)
    assert not (tmp_path / "out").exists()
