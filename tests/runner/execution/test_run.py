"""Runs of a whole matrix: what is missing runs, what is there stays, and what went wrong is said."""

import json
import os
import subprocess
import sys

import pytest

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.missing import trials_of_shard
from dstbench.runner.execution.run import run

pytestmark = pytest.mark.usefixtures("warm_server")

TASKS = Tasks("fakes.trials:by_seed", "fakes.trials:measure")
MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": ["rigl", "set"]},
    "controls": [],
    "training": {"epochs": 1},
}


def go(out, *settings, matrix=MATRIX, tasks=TASKS, **options):
    return run(matrix, out, settings=settings, tasks=tasks, workers=2, device="cpu", **options)


def result(done, seed=0):
    """The record of RigL's trial."""
    [trial] = [t for t in done.plan.trials if t.label == "rigl" and t.trial.seed == seed]
    return done.out / trial.key[:2] / trial.key / "result.json"


def test_second_run_does_nothing(tmp_path):
    first = go(tmp_path)
    assert (first.counts, first.ran, first.timed, first.ok) == ({"ok": 2}, 2, 2, True)
    record = read_record(result(first))
    assert record["measures"]["throughput"]["train"]["ratio"] == 0.5
    assert record["label"] == "rigl"
    events = []
    again = go(tmp_path, progress=events.append)
    assert (again.counts, again.ran, again.timed, events) == ({"ok": 2}, 0, 0, [])


def test_record_carries_what_was_spent_on_tuning_even_of_a_trial_that_died(tmp_path):
    done = go(tmp_path, "recipe=rigl", "seed=0,1,2", matrix=MATRIX | {"budget": {"tuning": "lr of 5"}})
    records = [read_record(result(done, seed)) for seed in range(3)]
    assert [r["status"] for r in records] == ["ok", "failed", "killed"]
    assert [r["provenance"]["tuning"] for r in records] == ["lr of 5"] * 3


def test_failures_are_rows_and_are_tried_again_on_request_only(tmp_path):
    first = go(tmp_path, "seed=0,1,2", "recipe=rigl")
    assert (first.counts, first.ok) == ({"ok": 1, "failed": 1, "killed": 1}, False)
    assert go(tmp_path, "seed=0,1,2", "recipe=rigl").ran == 0
    good = Tasks("fakes.trials:behave", "fakes.trials:measure")
    again = go(tmp_path, "seed=0,1,2", "recipe=rigl", tasks=good, retry=["failed"])
    assert (again.counts, again.ran) == ({"killed": 1, "ok": 2}, 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "cpuu"}, "device: unknown 'cpuu'; did you mean 'cpu'"),
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"settings": "init=erk"}, "settings: expected a list"),
        ({"retry": "failed"}, "retry: expected a list"),
        ({"out": __file__}, "out: expected a folder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_before_anything_starts(option, message, tmp_path):
    with pytest.raises(BadInput) as caught:
        run(MATRIX, **{"out": tmp_path / "results", "tasks": TASKS, **option})
    assert message in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_result_without_throughput_gets_only_that(tmp_path):
    first = go(tmp_path, tasks=Tasks(TASKS.train, "fakes.trials:break_down"))
    assert (first.counts, first.untimed, first.ok) == ({"ok": 2}, 2, False)
    second = go(tmp_path)
    assert (second.ran, second.timed, second.ok) == (0, 2, True)


def test_contended_throughput_is_measured_again_on_request(tmp_path):
    first = go(tmp_path, "recipe=rigl", tasks=Tasks(TASKS.train, "fakes.trials:measure_contended"))
    assert read_record(result(first))["measures"]["throughput"]["contended"] is True
    assert go(tmp_path, "recipe=rigl").timed == 0
    again = go(tmp_path, "recipe=rigl", retry=["contended"])
    assert (again.ran, again.timed) == (0, 1)


def test_no_throughput_where_none_is_wanted(tmp_path):
    done = go(tmp_path, "measure.throughput=false")
    assert (done.timed, done.ok) == (0, True)
    assert "throughput" not in read_record(result(done))["measures"]


@pytest.mark.parametrize("harm", ["truncated", "edited", "newer"])
def test_result_that_cannot_be_trusted_is_named_and_not_overwritten(tmp_path, harm):
    path = result(go(tmp_path))
    record = json.loads(path.read_text())
    record["measures"]["top1"] = 99.0
    record["schema_version"] += harm == "newer"
    text = path.read_text()[:-30] if harm == "truncated" else json.dumps(record)
    path.write_text(text)
    done = go(tmp_path, retry=["failed", "ok"])
    assert (done.counts, done.ok) == ({"invalid": 1, "ok": 1}, False)
    assert [rejected.path for rejected in done.rejected] == [path]
    assert path.read_text() == text
    repaired = go(tmp_path, retry=["invalid"])
    assert (repaired.counts, repaired.ran) == ({"ok": 2}, 1)
    assert [p.read_text() for p in path.parent.glob("*.invalid")] == [text]


def test_shards_are_a_partition(tmp_path):
    shards = [go(tmp_path, "seed=0", "density=0.1,0.2,0.3", shard=f"{i}/3") for i in (1, 2, 3)]
    assert sum(shard.ran for shard in shards) == 6
    whole = go(tmp_path, "seed=0", "density=0.1,0.2,0.3")
    assert (whole.ran, whole.counts) == (0, {"ok": 6})
    assert sorted(t.key for s in shards for t in s.plan.trials) == sorted(t.key for t in whole.plan.trials)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_wrong_shard(shard):
    with pytest.raises(BadInput, match="shard: expected i/n"):
        trials_of_shard([], shard)


def test_wrong_retry_names_the_nearest(tmp_path):
    with pytest.raises(BadInput, match="retry: unknown status 'fail'; did you mean 'failed'"):
        go(tmp_path, retry=["fail"])


def test_unknown_executor_names_the_nearest(tmp_path):
    with pytest.raises(BadInput, match="unknown executor 'locl'; did you mean 'local'"):
        go(tmp_path, executor="locl")


def test_skip_is_a_row_with_its_reason(tmp_path):
    done = go(tmp_path, "density=1e-5")
    assert (done.counts, done.ran, done.ok) == ({"skipped": 2}, 0, True)
    record = read_record(result(done))
    assert (record["status"], record["phase"]) == ("skipped", "plan")
    assert "5 layers" in record["reason"]


def test_missing_data_is_said_before_anything_starts(tmp_path):
    with pytest.raises(BadInput, match=r"dataset 'mnist': .*--data-root"):
        go(tmp_path, "dataset=mnist")
    with pytest.raises(BadInput, match=r"dataset 'mnist': .*--download"):
        go(tmp_path, "dataset=mnist", data_root=tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_goes_on_where_it_stopped(tmp_path):
    def interrupt(event):
        if event.kind == "finished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "seed=0,3", "recipe=rigl", progress=interrupt)
    good = Tasks("fakes.trials:behave", "fakes.trials:measure")
    done = go(tmp_path, "seed=0,3", "recipe=rigl", tasks=good)
    assert (done.ran, done.timed, done.counts) == (1, 2, {"ok": 2})


def test_planned_says_what_is_ahead(tmp_path):
    seen = []
    go(
        tmp_path,
        shard="1/1",
        planned=lambda plan, train, timed: seen.append((len(plan.trials), train, timed)),
    )
    go(tmp_path, "seed=0,1", planned=lambda plan, train, timed: seen.append((len(plan.trials), train, timed)))
    assert seen == [(2, 2, 2), (4, 2, 2)]


def test_script_without_a_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('run')\nimport dstbench\nfrom dstbench.runner.execution.jobs import Tasks\n"
        f"done = dstbench.run({MATRIX!r}, {str(tmp_path / 'out')!r}, device='cpu', "
        f"tasks=Tasks({TASKS.train!r}, {TASKS.measure!r}))\nprint(done.counts)\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["run", "{'ok': 2}"]
