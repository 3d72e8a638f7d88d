"""One real trial: what its record says, how it fails, and that it continues exactly where it stopped."""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest
import torch

from dstbench.core.training.method import as_recipe
from dstbench.registration.registry import registry
from dstbench.results.record import seal
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import loop
from dstbench.runner.trial import trial as trial_module
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.running import CHECKPOINT, CURVE, STATE
from dstbench.runner.trial.throughput import measure_throughput
from dstbench.runner.trial.trial import build_trial, run_trial

RIGL = {
    "init": {"name": "erk"},
    "structure": {"name": "unstructured"},
    "prune": {"name": "magnitude"},
    "grow": {"name": "gradient"},
    "schedule": {"name": "cosine", "delta_t": 5},
    "dense_layers": [],
}


def config(recipe=RIGL, **training):
    return TrialSpec(
        model={"name": "small_cnn"},
        dataset={"name": "digits"},
        density=0.1,
        seed=0,
        recipe=as_recipe(recipe),
        training=Training(**{"epochs": 3, "batch_size": 64, "lr": 0.05, **training}),
        measure=Measure(rounds=2, warmup=1, batch_size=8),
    )


def run(trial, folder, **options):
    return run_trial(trial, folder, device="cpu", threads=1, **options)


def test_the_record_of_a_good_trial(tmp_path):
    record = run(config(), tmp_path)
    assert record["status"] == "ok", record["traceback"]
    measures = record["measures"]
    assert measures["top1"] > 60
    weights = sum(row["active"] for row in measures["layers"])
    total = sum(torch.Size(row["shape"]).numel() for row in measures["layers"])
    assert weights == round(0.1 * total) == round(measures["density"] * total)
    assert measures["updates"] == 8
    assert measures["r_s"] > 0.1
    assert measures["changed"] > 0
    assert 0.1 < measures["training_flops_ratio"] < 0.2
    # 57 steps, 8 of them with a dense weight gradient: (57 * 3 f + 8 (1 - f)) / (57 * 3)
    f = measures["inference_flops_ratio"]
    assert measures["training_flops_ratio"] == pytest.approx((57 * 3 * f + 8 * (1 - f)) / (57 * 3), rel=1e-6)
    by_convention = measures["flops_by_convention"]
    assert list(by_convention) == ["mac", "rigl", "rigl-notebook"]
    assert by_convention["mac"] == {key: measures[key] for key in by_convention["mac"]}
    assert by_convention["rigl"]["inference_flops_ratio"] > f  # an operation an output is never spared
    assert record["provenance"]["dataset_fingerprint"]
    assert record["provenance"]["components"]["grow"]["distribution"] == "dstbench"
    curve = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    assert [line["epoch"] for line in curve] == [1, 2, 3]
    over_epochs = measures["exploration"]
    assert over_epochs["epoch"] == [0, 1, 2, 3]
    assert over_epochs["r_s"][0] == pytest.approx(0.1, abs=1e-3)
    assert over_epochs["r_s"] == sorted(over_epochs["r_s"])
    assert over_epochs["never_dropped"] == sorted(over_epochs["never_dropped"], reverse=True)
    assert (
        over_epochs["never_dropped"][0] == 1 > measures["never_dropped"] == over_epochs["never_dropped"][-1]
    )
    assert over_epochs["bottom_final"][-1] == 1
    assert over_epochs["bottom_final"][-2] == over_epochs["bottom_previous"][-1] < 1
    assert measures["bottom_early"] == over_epochs["bottom_final"][1]
    assert curve[-1]["channels"] == measures["channels"]
    assert [line["bottom_previous"] for line in curve] == over_epochs["bottom_previous"][1:]
    rows = {row["name"]: row for row in measures["layers"]}
    classifier = rows.popitem()[1]
    assert classifier["channels"] is None
    pooled = sum(row["channels"]["channels"] * row["channels"]["gini"] for row in rows.values())
    assert measures["channels"]["gini"] == pytest.approx(pooled / measures["channels"]["channels"], abs=1e-4)
    seal({**record, "key": "0" * 64, "label": "rigl", "control": None})  # fits the schema


def test_no_package_is_looked_for_at_every_step(tmp_path, monkeypatch):
    """Accelerate asks twice a step for one that hardly anyone has: 5 to 10 % of a short training."""
    asked = []

    class Finder:
        def find_spec(name, *_):
            asked.append(name)

    running = build_trial(Blueprint(config(epochs=1), registry()), tmp_path, device="cpu", threads=1)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    loop.train(running)
    assert running.sparsifier.steps == 19
    assert [name for name, times in Counter(asked).items() if times > 1] == []


def test_throughput_of_a_trial_stands_beside_dense(tmp_path):
    record = run(config(), tmp_path)
    timed = measure_throughput(config(), tmp_path, device="cpu", threads=1)
    for phase in ("train", "inference", "single"):
        speed = timed[phase]
        assert speed["path"] not in ("", "dense")  # a dispatcher that measures may find a faster one
        assert {speed["layout"], speed["dense_layout"]} <= {"contiguous", "channels_last"}
        assert speed["ratio_low"] <= speed["ratio"] <= speed["ratio_high"]
        assert speed["latency_low"] <= speed["latency_median"] <= speed["latency_high"]
        assert speed["dense_images_per_second"] > 0
    assert timed["train"]["path"] == "masked-dense"
    assert timed["single"]["images_per_second"] == pytest.approx(1 / timed["single"]["latency_median"])
    assert timed["inference"]["images_per_second"] == pytest.approx(8 / timed["inference"]["latency_median"])
    assert (timed["batch_size"], timed["threads"], timed["compile"]) == (8, 1, None)
    measures = {**record["measures"], "throughput": timed}
    seal({**record, "measures": measures, "key": "0" * 64, "label": "rigl", "control": None})


def test_inference_runs_compacted_where_rows_are_gone_and_training_as_it_is_stored(tmp_path):
    trial = config({**RIGL, "structure": {"name": "channel"}}, epochs=1)
    run(trial, tmp_path)
    timed = measure_throughput(trial, tmp_path, device="cpu", threads=1)
    paths = [timed[phase]["path"] for phase in ("train", "inference", "single")]
    assert paths == ["masked-dense", "compacted", "compacted"]


@pytest.mark.parametrize("recipe", [{"dense": True}, {**RIGL, "narrow": True}], ids=["dense", "small-dense"])
def test_controls(recipe, tmp_path):
    record = run(config(recipe), tmp_path)
    measures = record["measures"]
    assert record["status"] == "ok", record["traceback"]
    assert measures["r_s"] is None
    assert "exploration" not in measures
    assert measures["updates"] == 0
    assert measures["inference_flops_ratio"] == pytest.approx(1 if "dense" in recipe else 0.1, abs=0.02)
    assert (
        measures["density"]
        == measures["density_all"]
        == pytest.approx(1 if "dense" in recipe else 0.1, abs=0.02)
    )
    for ratios in measures["flops_by_convention"].values():
        assert ratios["training_flops_ratio"] == pytest.approx(ratios["inference_flops_ratio"], rel=1e-12)
    if "narrow" in recipe:
        rigl = run(config(), tmp_path / "rigl")["measures"]
        assert measures["parameters"] == pytest.approx(rigl["active_parameters"], rel=0.05)
    timed = measure_throughput(config(recipe), tmp_path, device="cpu", threads=1)
    assert {timed[phase]["path"] for phase in ("train", "inference", "single")} == {"dense"}


@pytest.mark.parametrize(
    ("storage", "recipe"),
    [("compact", {"name": "chase", "channel_sparsity": 0.5, "delta_t": 5, "channel_delta_t": 5})],
)
def test_whatever_is_stored_the_record_is_the_same(storage, recipe, tmp_path):
    records, states = [], []
    for kind in ("masked", storage):
        records.append(run(config(recipe, storage=kind), tmp_path / kind)["measures"])
        states.append(torch.load(tmp_path / kind / STATE, weights_only=True))
    masked, stored = records
    assert abs(masked["top1"] - stored["top1"]) < 1
    assert masked["changed"] > 0
    same = (
        "density",
        "layers",
        "changed",
        "r_s",
        "channels_removed",
        "inference_flops",
        "hardware_flops_ratio",
    )
    assert {name: stored[name] for name in same} == {name: masked[name] for name in same}
    assert all(torch.equal(mask, states[1]["masks"][name]) for name, mask in states[0]["masks"].items())
    shapes = ({name: value.shape for name, value in state["model"].items()} for state in states)
    assert next(shapes) == next(shapes)


@pytest.mark.parametrize("grow", ["gradient", "momentum"])
def test_an_interrupted_trial_continues_bit_for_bit(tmp_path, monkeypatch, grow):
    trial = config({**RIGL, "grow": {"name": grow}})
    whole = run(trial, tmp_path / "whole")
    monkeypatch.setattr(loop, "_log", interrupted_after(2, loop._log))
    with pytest.raises(KeyboardInterrupt):
        run(trial, tmp_path / "parts", checkpoint_seconds=1e-9)
    monkeypatch.undo()
    assert (tmp_path / "parts" / CHECKPOINT).is_file()
    resumed = run(trial, tmp_path / "parts")
    states = [torch.load(tmp_path / part / STATE, weights_only=True) for part in ("whole", "parts")]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    same = (
        "top1",
        "loss",
        "r_s",
        "changed",
        "updates",
        "training_flops",
        "channels",
        "bottom_early",
        "exploration",
    )
    assert {k: whole["measures"][k] for k in same} == {k: resumed["measures"][k] for k in same}
    assert not (tmp_path / "parts" / CHECKPOINT).exists()


def interrupted_after(calls, original):
    """``original``, but the call after ``calls`` is a Ctrl-C."""
    count = 0

    def log(*args):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        original(*args)

    return log


def test_divergence_is_a_result(tmp_path):
    record = run(config(lr=1e6), tmp_path)
    assert record["status"] == "diverged"
    assert record["phase"] == "train"
    assert record["reason"].startswith("the training loss is ")  # the status says that it diverged


def test_extended_training_costs_more_than_one_dense_training(tmp_path):
    """RigL-5x's published ratio is 5 times RigL's: the dense training beside it is not extended."""
    static = {**RIGL, "schedule": {"name": "never"}}
    plain = run(config(static, epochs=1), tmp_path / "plain")["measures"]
    longer = run(config({**static, "multiplier": 2.0}, epochs=2), tmp_path / "longer")["measures"]
    assert longer["dense_training_flops"] == plain["dense_training_flops"]
    assert longer["training_flops_ratio"] == pytest.approx(2 * plain["training_flops_ratio"])


def test_a_strategy_that_raises_is_a_result_with_its_place(tmp_path, monkeypatch):
    from dstbench_plugins.grow.gradient import Gradient

    monkeypatch.setattr(Gradient, "__call__", lambda self, layer, rng: layer.grad[:1])
    record = run(config(), tmp_path)
    assert record["status"] == "failed"
    assert "Gradient()" in record["reason"]
    assert "expected shape" in record["reason"]
    assert "Traceback" in record["traceback"]


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(10**15), lambda: bytearray(2**60), lambda: torch.OutOfMemoryError("GPU")],
    ids=["torch", "python", "cuda"],
)
def test_out_of_memory_is_a_result(allocate, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise allocate()  # only the GPU's error is made by hand; the others are raised in there

    monkeypatch.setattr(loop, "_epoch", full)
    assert run(config(), tmp_path)["status"] == "oom"


@pytest.mark.parametrize(
    "training",
    [
        {"mixed_precision": "bf16"},
        {"gradient_accumulation": 3},
        {"clip_norm": 1.0, "label_smoothing": 0.1},
        {"optimizer": "adamw", "lr": 1e-3},
        {"optimizer": "lion", "lr": 1e-3, "schedule": "tanh"},
        {"schedule": "multistep", "milestones": [1, 2], "warmup_epochs": 1},
        {"channels_last": True},
    ],
    ids=lambda training: "-".join(training),
)
def test_training_settings_keep_the_budget(training, tmp_path):
    record = run(config(**{"epochs": 3, **training}), tmp_path)
    assert record["status"] == "ok", record["traceback"]
    assert record["measures"]["density"] == pytest.approx(0.1, abs=1e-4)
    assert record["measures"]["updates"] > 0
    state = torch.load(tmp_path / STATE, weights_only=True)
    inactive = sum(int((state["model"][f"{name}.weight"] == 0).sum()) for name in state["masks"])
    assert inactive >= 0.89 * sum(state["model"][f"{name}.weight"].numel() for name in state["masks"])


@pytest.mark.parametrize(
    ("training", "message"),
    [({"optimizer": "sdg"}, "sgd"), ({"schedule": "cosin"}, "cosin"), ({"batch_size": 10**6}, "batch_size")],
)
def test_bad_training_settings_name_themselves(training, message, tmp_path):
    record = run(config(**training), tmp_path)
    assert record["status"] == "failed"
    assert message in record["reason"]


def test_more_accumulation_than_batches_is_refused(tmp_path):
    record = run(config(gradient_accumulation=50), tmp_path)
    assert record["status"] == "failed"
    assert "gradient_accumulation: 50 is more than the 19 batches" in record["reason"]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module.Accelerator, "num_processes", 2)
    assert "training.processes: 1, and this is one of 2" in run(config(), tmp_path)["reason"]


def test_a_training_that_ends_above_its_density_is_refused(tmp_path, monkeypatch):
    cubic = {**RIGL, "schedule": {"name": "cubic", "delta_t": 5, "stop": 1.0}}
    assert run(config(cubic), tmp_path / "whole")["status"] == "ok"
    original = loop._step

    def skipping(running, total):
        if running.sparsifier.steps != 30 or getattr(running, "skipped", False):
            original(running, total)
        else:
            running.skipped = True  # as a loss scaler does with an overflow

    monkeypatch.setattr(loop, "_step", skipping)
    record = run(config(cubic), tmp_path / "short")
    assert (record["status"], record["phase"]) == ("failed", "evaluate")
    assert "56 of 57 steps" in record["reason"]


def test_same_seed_same_result_whatever_the_global_generator(tmp_path):
    first = run(config(), tmp_path / "a")
    torch.rand(100)
    second = run(config(), tmp_path / "b")
    assert first["measures"]["loss"] == second["measures"]["loss"]


def test_observers_hear_of_every_update(tmp_path):
    heard = []

    class Hook:
        def trial_started(self, trial):
            heard.append("started")

        def topology_updated(self, trial, step, report):
            heard.append(step)

        def trial_finished(self, trial, result):
            heard.append(result["status"])

    source = registry()
    monitored = type(
        "Monitored", (), {"hook": Hook(), "__getattr__": lambda self, name: getattr(source, name)}
    )()
    run(config(), tmp_path, registry=monitored)
    assert heard == ["started", 5, 10, 15, 20, 25, 30, 35, 40, "ok"]


def test_exploration_begins_with_the_initial_masks_also_where_they_wait_for_gradients(tmp_path):
    """SNIP is dense until its first step: that isn't a topology, and nothing was explored by it."""
    record = run(config({**RIGL, "init": {"name": "snip"}}), tmp_path)
    assert record["status"] == "ok", record["traceback"]
    over_epochs = record["measures"]["exploration"]
    assert over_epochs["epoch"] == [1, 2, 3]
    assert 0.1 < over_epochs["r_s"][0] <= over_epochs["r_s"][-1] < 0.6
    assert record["measures"]["bottom_early"] == over_epochs["bottom_final"][0]
