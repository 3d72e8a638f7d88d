"""Synthetic results: 3 methods and 3 controls over 3 seeds and 2 data sets, with every kind of trouble."""

from __future__ import annotations

import hashlib

import pytest

from dstbench.results.record import canonical, folder_of, write_record

METHODS = {
    "rigl": ("erk", "unstructured", "magnitude", "gradient"),
    "set": ("erk", "unstructured", "set", "random"),
    "uniform · channel · mest · random": ("uniform", "channel", "mest", "random"),
}


def recipe_of(parts, schedule="cosine"):
    kinds = ("init", "structure", "prune", "grow")
    return {
        **{kind: {"name": name} for kind, name in zip(kinds, parts, strict=True)},
        "schedule": {"name": schedule},
    }


def speeds(ratio, **changes):
    speed = {
        "images_per_second": 1000.0 * ratio,
        "dense_images_per_second": 1000.0,
        "ratio": ratio,
        "ratio_low": ratio - 0.02,
        "ratio_high": ratio + 0.02,
    }
    return {
        "path": "masked-dense",
        "batch_size": 64,
        "precision": "float32",
        "threads": 2,
        "device": "cpu",
        "rounds": 7,
        "contended": False,
        "train": speed,
        "inference": speed,
    } | changes


def measures_of(top1, density=0.1, flops=0.12, **changes):
    return {
        "top1": top1,
        "density_requested": density,
        "density": density + 0.001,
        "r_s": 0.4,
        "updates": 12,
        "churn": 0.2,
        "convention": "mac",
        "training_flops_ratio": flops,
        "inference_flops_ratio": flops - 0.01,
        "hardware_flops_ratio": 1.0,
        "parameters": 10_000,
        "active_parameters": round(10_000 * density),
        "seconds": 3.5,
        "throughput": speeds(0.97),
    } | changes


def make_record(label="rigl", seed=0, top1=91.0, *, dataset="digits", density=0.1, recipe=None, **changes):
    """A finished trial; ``changes`` replace fields of the record."""
    trial = {
        "model": {"name": "small_cnn"},
        "dataset": {"name": dataset},
        "density": density,
        "seed": seed,
        "recipe": recipe or recipe_of(METHODS[label]),
        "training": {"epochs": 12},
    } | changes.pop("trial", {})
    return {
        "key": hashlib.sha256(canonical(trial).encode()).hexdigest(),
        "status": "ok",
        "trial": trial,
        "label": label,
        "measures": measures_of(top1, density),
        "provenance": {
            "dstbench": "0.1.0",
            "commit": "abc1234",
            "python": "3.11",
            "torch": "2.15.0",
            "platform": "Linux",
            "cpu": "a CPU",
            "cores": 2,
            "tuning": "none at all",
            "components": {"grow": {"name": "dstbench/x", "version": "1"}},
            "dataset_fingerprint": hashlib.sha256(dataset.encode()).hexdigest(),
            "started": "2026-11-20T10:00:00Z",
            "finished": f"2026-11-20T10:0{seed}:30Z",
        },
    } | changes


def controls(seed, dataset):
    dense = measures_of(95.0 + seed, 1.0, 1.0)
    static = recipe_of(METHODS["rigl"], "never")
    yield make_record(
        "dense", seed, dataset=dataset, density=1.0, recipe={"dense": True}, control="dense", measures=dense
    )
    yield make_record("static", seed, 85.0 + seed, dataset=dataset, recipe=static, control="static")
    narrow = {"narrow": True, **recipe_of(METHODS["rigl"])}
    yield make_record("small-dense", seed, 86.5 + seed, dataset=dataset, recipe=narrow, control="small-dense")


def make_records():
    """36 records: 2 data sets x 3 seeds x (3 controls + 3 methods), two of them in trouble."""
    records = []
    for dataset in ("digits", "mnist"):
        for seed in range(3):
            records += controls(seed, dataset)
            records.append(make_record("rigl", seed, 93.0 + 2 * (seed == 1), dataset=dataset))
            records.append(
                make_record(
                    "set", seed, 92.0 + seed, dataset=dataset, measures=measures_of(92.0 + seed, flops=0.10)
                )
            )
            records.append(make_record("uniform · channel · mest · random", seed, 80.0, dataset=dataset))
    return [_trouble(record) for record in records]


def _trouble(record):
    """The channel method: out of memory for one seed on digits, skipped throughout on mnist."""
    if "channel" not in record["label"]:
        return record
    if record["trial"]["dataset"]["name"] == "mnist":
        reason = "layer conv1: 6 <channels> can't hold 5 weights </script>"
        return record | {
            "status": "skipped",
            "reason": reason,
            "phase": "plan",
            "measures": {},
            "provenance": {},
        }
    if record["trial"]["seed"] == 2:
        reason = "CUDA out of memory at /home/someone/secret/train.py"
        return record | {
            "status": "oom",
            "reason": reason,
            "phase": "train",
            "measures": {},
            "provenance": {},
        }
    return record


def write(folder, records):
    for record in records:
        write_record(record, folder_of(folder, record["key"]))
    return folder


@pytest.fixture
def make():
    return make_record


@pytest.fixture
def speed():
    return speeds


@pytest.fixture
def put():
    return write


@pytest.fixture
def records():
    return make_records()


@pytest.fixture
def results(tmp_path, records):
    return write(tmp_path / "results", records)
