"""Trials of several processes: none waits for one that has ended, and the record says which that was, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dstbench.errors import BadInput
from dstbench.results.record import FILE, read_record
from dstbench.runner.execution import launched as module
from dstbench.runner.execution.launched import Launch
from dstbench.runner.execution.local import gpu_sets
from dstbench.runner.execution.rank_processes import RankedTrial, _Heard, _record
from dstbench.runner.failures import ending
from dstbench.runner.trial.interruption import Interrupted
from dstbench.runner.trial.running import CHECKPOINT
from fakes.jobs import TRIAL, job, outcomes
from fakes.recipes_on_ranks import PRELOAD, found_in, jobs_of, spec

TWO = replace(TRIAL, training=TRIAL.training.model_copy(update={"processes": 2, "threads": 1}))
KINDS = ("succeed", "kill", "exit 0", "raise", "agree", "leave a child", "be asked")


SPOILT = ("nan", "differ")
RECIPES = ("chase",)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each kind ended, with its folder, which held a checkpoint where ranks only behave. One run: one server."""
    root = tmp_path_factory.mktemp("ranks")
    jobs = {
        do: job(root, f"{index:02x}" * 16, do, trial=TWO, task="fakes.ranked:behave")
        for index, do in enumerate(KINDS)
    }
    for each in jobs.values():
        each.folder.mkdir(parents=True)
        (each.folder / CHECKPOINT).touch()
    jobs |= {
        do: job(root, f"a{index:x}" * 16, do, trial=spec("rigl", 2, epochs=2), task="fakes.ranked:observed")
        for index, do in enumerate(SPOILT)
    }
    jobs |= {(one.label, one.folder.name): one for one in jobs_of(RECIPES, root)}
    jobs |= {
        ("norms", str(processes)): job(
            root, f"b{processes}" * 16, trial=spec("rigl", processes, sync_batch_norm=True, epochs=4),
            task="fakes.ranked:observed", options={"device": "cpu", "norm": True},
        )
        for processes in (2, 1)
    }  # fmt: skip
    jobs |= {
        task: job(root, f"{letter}0" * 16, task=f"fakes.ranked:{task}",
                  trial=spec("rigl", 2, gradient_accumulation=2), options={"device": "cpu", "chance": True})
        for task, letter in (("observed", "c"), ("stopped", "d"))
    }  # fmt: skip
    found = outcomes(list(jobs.values()), preload=PRELOAD)
    return {name: (found[each.key], each.folder) for name, each in jobs.items()}


def test_each_rank_is_told_its_place(ended):
    event, folder = ended["succeed"]
    assert event.status == "ok"
    assert read_record(folder)["measures"]["top1"] == 50.0  # rank 0's
    for rank in range(2):
        place = json.loads((folder / f"rank {rank}").read_text())
        assert place.pop("threads") >= 1
        assert place == {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip


DEATHS = {
    "kill": "rank 1: killed by SIGKILL, which is also how a system out of memory ends a process",
    "exit 0": "rank 1: its process ended with exit code 0; see log.txt",
    "leave a child": "rank 1: killed by SIGKILL, which is also how a system out of memory ends a process",
}


@pytest.mark.parametrize("kind", DEATHS)
def test_a_rank_that_dies_ends_the_others_and_leaves_the_checkpoint(ended, kind):
    """Rank 0 would have waited for a minute."""
    event, folder = ended[kind]
    assert (event.status, event.reason) == ("killed", DEATHS[kind])
    assert event.seconds < 50
    assert (folder / CHECKPOINT).exists()


def test_a_rank_that_raises_ends_the_others_and_is_named(ended):
    event, folder = ended["raise"]
    assert (event.status, event.reason) == ("failed", "rank 1: RuntimeError: only here")
    assert event.seconds < 50
    assert "in _raise" in read_record(folder)["traceback"]
    assert not (folder / CHECKPOINT).exists()


def test_what_every_rank_raises_is_said_as_of_one(ended):
    event, _ = ended["agree"]
    assert (event.status, event.reason) == ("failed", "ValueError: what every rank says")


def test_a_trial_that_is_asked_to_stop_has_all_its_ranks_do(ended):
    event, folder = ended["be asked"]
    assert event.status == "interrupted"
    assert {path.name for path in folder.iterdir()} >= {CHECKPOINT, "rank 0", "rank 1"}
    assert not (folder / FILE).exists()


def verdict(tmp_path, *said, processes=2):
    """What is made of what ranks said, in this order."""
    heard = _Heard()
    for rank, one in said:
        heard.note(rank, one)
    training = TRIAL.training.model_copy(update={"processes": processes})
    return _record(RankedTrial("", replace(TRIAL, training=training), tmp_path, {}), heard)


LOST = ending("failed", "RuntimeError: [gloo/transport/tcp/pair.cc:546] Connection closed by peer", "train")
OK, STOPPED = {"status": "ok", "reason": None}, {"status": "stopped"}


def test_a_rank_that_lost_another_is_not_the_reason(tmp_path):
    died = ending("killed", "killed by SIGKILL")
    assert verdict(tmp_path, (0, LOST), (1, died))["reason"] == "rank 1: killed by SIGKILL"
    failed = ending("failed", "ValueError: x", "train")
    assert (
        verdict(tmp_path, (0, LOST), (3, failed), (2, LOST), processes=4)["reason"] == "rank 3: ValueError: x"
    )


def test_ranks_that_only_lost_each_other_are_killed_ones(tmp_path):
    """As where a machine was switched off: the checkpoint is good, and trying again goes on from it."""
    (tmp_path / CHECKPOINT).touch()
    record = verdict(tmp_path, (0, LOST))
    assert (record["status"], record["reason"]) == ("killed", f"rank 0: {LOST['reason']}")
    assert (tmp_path / CHECKPOINT).exists()


def test_divergence_is_the_reason_whatever_ranks_without_it_say(tmp_path):
    nan = ending("failed", "StrategyError: the topology update at step 3: rank 1: scores are NaN", "train")
    record = verdict(tmp_path, (0, nan), (1, ending("diverged", "the training loss is nan", "train")))
    assert (record["status"], record["reason"]) == ("diverged", "rank 1: the training loss is nan")


def test_ranks_that_were_asked_to_stop_leave_no_record(tmp_path):
    for said in ([(0, STOPPED), (1, STOPPED)], [(1, STOPPED), (0, LOST)], [(0, STOPPED), (1, LOST)]):
        with pytest.raises(Interrupted):
            verdict(tmp_path, *said)
    assert verdict(tmp_path, (0, OK), (1, LOST))["status"] == "ok"  # all was written when it was lost


def test_ranks_that_part_are_named_with_layer_and_step(ended):
    event, _ = ended["differ"]
    assert (event.status, event.reason) == (
        "failed",
        "StrategyError: the ranks hold different masks for 2 at step 2 (other than rank 0: rank 1 in 2): "
        "a score read something that differs between ranks",
    )


def test_divergence_on_one_rank_is_divergence(ended):
    """Whichever sees it first: the loss of an epoch, or an update of the topology."""
    event, _ = ended["nan"]
    assert event.status == "diverged"
    assert "the training loss is nan" in event.reason or "aren't finite" in event.reason, event.reason


def test_ranks_that_stop_go_on_bit_for_bit(ended):
    """With a norm, dropout, and steps of two batches."""
    (whole, one), (parts, other) = ended["observed"], ended["stopped"]
    assert (whole.status, parts.status) == ("ok", "ok"), (whole.reason, parts.reason)
    assert [(other / f"stops.{rank}").read_text() for rank in range(2)] == ["3", "3"]
    for rank in range(2):
        states = [json.loads((folder / f"masks.{rank}.json").read_text()) for folder in (one, other)]
        assert states[0]["weights"] == states[1]["weights"]
        assert states[0]["masks"][-1] == states[1]["masks"][-1]
    records = [read_record(folder)["measures"] for folder in (one, other)]
    assert {**records[0], "seconds": 0, "peak_memory": 0} == {**records[1], "seconds": 0, "peak_memory": 0}
    assert states[0]["updates"] >= 3


def test_synchronised_norms_are_those_of_one_process(ended):
    masks = [
        json.loads((ended["norms", processes][1] / "masks.0.json").read_text())["masks"] for processes in "21"
    ]
    two, one = (read_record(ended["norms", processes][1])["measures"] for processes in "21")
    assert masks[0] == masks[1]
    assert two["updates"] >= 5
    for name in ("loss", "top1"):
        assert two[name] == pytest.approx(one[name], rel=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_have_the_masks_of_one_process(ended, recipe):
    """``python -m fakes.recipes_on_ranks`` in ``tests`` does this with every recipe."""
    (two, folder), (one, _) = ended[recipe, "2"], ended[recipe, "1"]
    assert (two.status, one.status) == ("ok", "ok"), (two.reason, one.reason)
    found = found_in(folder.parent)
    assert (found.ranks, found.alone) == (True, True)
    assert found.updates >= 5
    measures = [read_record(each)["measures"] for _, each in (ended[recipe, "2"], ended[recipe, "1"])]
    for name in ("training_flops", "density", "r_s", "steps", "changed"):
        assert measures[0][name] == measures[1][name], name
    for name in ("loss", "top1"):
        assert measures[0][name] == pytest.approx(measures[1][name], rel=1e-4)


def test_a_trial_gets_a_gpu_for_each_process():
    four = replace(job(Path(), trial=TWO), phase="train")
    assert gpu_sets(["0", "1", "2", "3", "4"], [four]) == ["0,1", "2,3"]
    assert gpu_sets(["0", "1"], [job(Path())]) == ["0", "1"]
    assert gpu_sets([], [four]) == []
    with pytest.raises(BadInput, match=r"training\.processes: 2 want a GPU each, and 1 can be seen"):
        gpu_sets(["0"], [four])


def test_a_launch_is_taken_out_of_the_environment(monkeypatch):
    place = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here",
             "MASTER_PORT": "29500"}  # fmt: skip
    environment = {**place, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "HOME": "x"}
    monkeypatch.setattr(module.os, "environ", environment)
    expected = Launch(3, 4, 1, 2, "here", 29500, hosted=False)
    assert module.launched() == expected == module.launched()
    assert set(environment) == {"HOME", "DSTBENCH_LAUNCH"}
    monkeypatch.setattr(module.os, "environ", {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(BadInput, match="LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"):
        module.launched()
    monkeypatch.setattr(module.os, "environ", {"RANK": "0", "WORLD_SIZE": "1"})
    assert module.launched() is None


def test_what_ranks_elsewhere_are_told_is_all_of_a_trial():
    trial = RankedTrial("a:b", spec("rigl", 2), Path("/x"), {"data_root": Path("/d"), "device": "cpu"})
    told = RankedTrial.of(json.loads(json.dumps(trial.plain())))
    assert told.plain() == trial.plain()
    assert (told.task, told.folder, told.options) == (trial.task, trial.folder, trial.options)
