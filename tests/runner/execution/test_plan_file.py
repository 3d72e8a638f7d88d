"""A plan in its results folder: all that a job is but where, and nothing else gets in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dstbench.errors import BadInput
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import read_plan, read_plans, write_plan
from dstbench.runner.matrix.start import Start
from dstbench.runner.matrix.trial_spec import TrialSpec
from fakes.jobs import TRIAL, job

KEYS = ("ab" * 16, "cd" * 16, "ef" * 16)


def order(root, *keys, **changes):
    options = {"device": "cpu", "do": "succeed", "data_root": Path("/data/sets")}
    fields = {
        "options": options, "limit": 60.0, "retry": frozenset({"failed", "oom"}), "replaces": "12" * 32,
        "provenance": {"tuning": "none"}, **changes,
    }  # fmt: skip
    timing = {"task": "fakes.trials:measure", "phase": "throughput"}
    train, throughput = (
        [job(root, key, **fields) for key in keys],
        [job(root, key, **timing) for key in keys[:1]],
    )
    return Order(root, canonical(train), canonical(throughput), ("fakes.trials",))


def canonical(jobs):
    """With trials as a plan has them."""
    return tuple(replace(one, trial=TrialSpec.from_json(TRIAL.to_json())) for one in jobs)


def test_what_is_read_is_what_was_written(tmp_path):
    whole = order(tmp_path, *KEYS)
    path = write_plan(whole, "a suite/of mine")
    assert read_plan(path) == whole
    assert path.parent == tmp_path / "plans"
    assert path.name.startswith("a-suite-of-mine-")
    assert write_plan(whole, "a suite/of mine") == path
    assert write_plan(order(tmp_path, *KEYS[:2]), "a suite/of mine") != path


def test_results_may_be_elsewhere_on_another_machine(tmp_path):
    path = write_plan(order(tmp_path / "here", *KEYS), "s")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_plan(tmp_path / "there" / "plans" / path.name)
    assert moved == order(tmp_path / "there", *KEYS)


def test_a_trial_that_changes_the_working_directory_writes_where_it_should(tmp_path, monkeypatch):
    write_plan(order(tmp_path, *KEYS), "s")
    monkeypatch.chdir(tmp_path.parent)
    assert all(one.folder.is_absolute() for one in read_plans(Path(tmp_path.name))[0].train)


def test_a_data_root_means_the_same_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_plan(order(tmp_path, KEYS[0], options={"data_root": Path("data")}), "s")
    assert read_plan(path).train[0].options["data_root"] == tmp_path / "data"


def test_a_file_of_weights_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").touch()
    starts = [Start(path=name, sha256="ab" * 32) for name in ("own.safetensors", "below/root.safetensors")]
    jobs = [
        replace(job(tmp_path, key), trial=replace(TRIAL, start=start))
        for key, start in zip(KEYS, starts, strict=False)
    ]
    here, below = (one.trial.start for one in read_plan(write_plan(Order(tmp_path, tuple(jobs)), "s")).train)
    assert here.path == str(tmp_path / "own.safetensors")
    assert here.identity == starts[0].identity
    assert below == starts[1]  # nowhere here: each machine looks below its own data root


def test_all_plans_are_one_order_and_the_newest_counts(tmp_path):
    import os

    old, new = order(tmp_path, *KEYS[:2], limit=1.0), order(tmp_path, *KEYS[1:], limit=2.0)
    first, second = write_plan(old, "old"), write_plan(new, "new")
    os.utime(first, (1000, 1000))
    both, rejected = read_plans(tmp_path)
    assert {one.key: one.limit for one in both.train} == dict(zip(KEYS, (1.0, 2.0, 2.0), strict=True))
    assert rejected == ()
    assert read_plans(tmp_path, [second.stem])[0] == new
    with pytest.raises(BadInput, match="has no plan 'other', but new-"):
        read_plans(tmp_path, ["other"])


def test_a_folder_without_a_plan_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="has no plan; `dstbench run SUITE --out"):
        read_plans(tmp_path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda plan: plan | {"version": 2}, "expected a plan of version 1, got 2: update dstbench"),
        (lambda plan: plan | {"version": "1"}, "expected a plan of version 1, got '1'"),
        (lambda plan: {}, "is no plan: 'version' is missing"),
        (lambda plan: [plan], "is no plan"),
        (lambda plan: plan | {"train": None}, "is no plan"),
        (lambda plan: plan | {"train": {"all": {}, "jobs": [{}]}}, "'key' is missing"),
        (lambda plan: of_job(plan, key="../../../etc"), "key: expected 8 to 64 hexadecimal digits"),
        (lambda plan: of_job(plan, key=["ab"]), "key: expected 8 to 64 hexadecimal digits"),
        (lambda plan: of_job(plan, planet=1), "a job has 'planet', which this version doesn't know"),
        (lambda plan: of_job(plan, trial={}), "is missing"),
        (lambda plan: of_job(plan, trial=7), "is no plan"),
    ],
)
def test_what_is_no_plan_is_named_and_the_others_count(tmp_path, harm, message):
    good = write_plan(order(tmp_path, KEYS[0]), "good")
    bad = write_plan(order(tmp_path, KEYS[1]), "bad")
    bad.write_text(json.dumps(harm(json.loads(bad.read_text()))))
    with pytest.raises(BadInput, match=r"bad-") as caught:
        read_plan(bad)
    assert message in str(caught.value)
    both, rejected = read_plans(tmp_path)
    assert both == read_plan(good)
    assert [one.path for one in rejected] == [bad]
    assert message in str(rejected[0])


def of_job(plan, **changes):
    return plan | {"train": {**plan["train"], "jobs": [{**plan["train"]["jobs"][0], **changes}]}}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"x"', "NaN"])
def test_no_text_ends_a_worker(tmp_path, text):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "odd.json").write_text(text)
    assert read_plans(tmp_path)[1][0].path.name == "odd.json"


def test_every_field_of_a_job_travels(tmp_path):
    """One that is added to Job and can't be told as JSON fails here."""
    plain = order(tmp_path, KEYS[0]).train[0]
    changed = replace(plain, control="dense", label="other")
    path = write_plan(
        Order(tmp_path, (plain, replace(changed, key=KEYS[1], folder=tmp_path / "cd" / KEYS[1]))), "s"
    )
    assert [one.control for one in read_plan(path).train] == [None, "dense"]
