"""What goes on in a results folder, read from its files alone: plans, records, leases, curves, engines' words."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.recipe import Spec
from dstbench.results.curve_file import CURVE
from dstbench.results.files import read_plain
from dstbench.results.labels import spec_text
from dstbench.results.printable import printable
from dstbench.results.record import FILE, Record, Rejected, read_trial, record_files
from dstbench.results.tuning import is_tuning, tries_of
from dstbench.runner.execution.halt import stopped
from dstbench.runner.execution.lease import Holder, clock, look
from dstbench.runner.execution.losses import given_up, lost_on
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import read_plans
from dstbench.runner.execution.worker import Job, is_open, is_waiting, once_each

ENGINES = "engine"
"""In a results folder: what executors on other machines were given, as ``{engine, jobs: [{id, state}]}``."""
_TAIL = 2**16  # bytes at the end of a curve, in which its last line is
_LARGEST = 2**24  # bytes of what an engine says


def status(results: Path) -> dict[str, Any]:
    """All of it, JSON-ready: ``counts``; trials as ``running``, ``open`` and ``failed``; ``engines``; and the files
    that are ``rejected``. A trial whose holder is lost is both running, with ``lost``, and open; ``lost_on`` names
    the nodes of those that it lost before without getting on.

    Ages are by the file server's clock, or this machine's where the folder can't be written to. Raises BadInput where
    there is no folder.
    """
    if not results.is_dir():
        raise BadInput(f"results folder: expected an existing folder, got {str(results)!r}")
    order, rejected = _planned(results)
    records = {path.parent.name: read_trial(path) for path in record_files(results)}
    jobs = {job.key: job for job in order.throughput} | {job.key: job for job in order.train if is_open(job)}
    todo = once_each(job for job in jobs.values() if is_open(job))
    now = _now(results)
    holders = {job.key: holder for job in jobs.values() if (holder := look(job.folder, now)) is not None}
    held = {key for key, holder in holders.items() if not holder.is_lost}
    running = [_running(jobs[key], holder) for key, holder in holders.items()]
    over = stopped(order.train)
    waiting = [_open(job, job.stops_with in over) for job in todo if job.key not in held]
    good = {key: record for key, record in records.items() if isinstance(record, dict)}
    untrusted = [record for record in records.values() if isinstance(record, Rejected)]
    planned = (*order.train, *order.throughput)
    candidates = {job.key for job in planned if job.tuned} - records.keys()
    left_open = {job.key for job in todo}
    known = ({job.key for job in planned} - candidates) | records.keys() | (candidates & left_open)
    return {
        "results": str(results),
        "counts": {
            "trials": len(known),
            **dict(sorted(Counter(record["status"] for record in good.values()).items())),
            **({"invalid": len(untrusted)} if untrusted else {}),
            "running": len(held),
            "lost": len(holders) - len(held),
            "to tune": sum(one["tunes"] and not one["stopped"] for one in waiting),
            "to train": sum(
                one["phase"] == "train" and not (one["tunes"] or one["stopped"]) for one in waiting
            ),
            "to time": sum(one["phase"] == "throughput" and not one["stopped"] for one in waiting),
            "not started after a failure": sum(one["stopped"] for one in waiting),
        },
        "running": sorted(running, key=lambda one: (one["lost"], str(one["since"]))),
        "open": waiting,
        "failed": [
            *(_failed(record) for record in good.values() if record["status"] not in ("ok", "skipped")),
            *_untimed(order.throughput),
        ],
        "engines": list(_engines(results)),
        "rejected": [str(one) for one in (*rejected, *untrusted)],
    }


def _planned(results: Path) -> tuple[Order, tuple[Rejected, ...]]:
    """What was planned there; nothing where no plan can be found."""
    try:
        return read_plans(results)
    except BadInput:
        return Order(results, ()), ()


def _now(results: Path) -> float:
    with suppress(OSError):
        return clock(results)
    return time.time()


def _running(job: Job, holder: Holder) -> dict[str, Any]:
    """A trial that someone holds, and how far it is."""
    said = {name: _text(holder.said.get(name)) for name in ("host", "node", "job", "since")}
    training = not (job.folder / FILE).exists()
    point = _last_point(job.folder / CURVE) if training else {}
    return {
        **_named(job.label, job.trial.to_json(), job.key),
        "phase": "train" if training else "throughput",
        "tunes": job.trial.tunes,
        "settings": dict(job.settings),
        "where": printable(holder.name),
        **said,
        "last_beat": round(max(0.0, holder.age), 1),
        "lost": holder.is_lost,
        "lost_on": lost_on(job.folder),
        "epochs": job.trial.training.epochs,
        **{name: point.get(name) for name in ("epoch", "loss", "top1_validation", "seconds")},
        "score_validation": point.get("score_validation", point.get("top1_validation")),
    }


def _open(job: Job, stopped: bool) -> dict[str, Any]:
    """A trial that nobody holds. stopped: it isn't started any more, for another of its plan has failed."""
    return {
        **_named(job.label, job.trial.to_json(), job.key),
        "phase": job.phase,
        "tunes": job.trial.tunes,
        "settings": dict(job.settings) if not is_waiting(job) else {},
        "waits": is_waiting(job),  # for its tuning trials
        "lost_on": lost_on(job.folder),
        "stopped": stopped,
    }


def _untimed(jobs: Iterable[Job]) -> Iterable[dict[str, Any]]:
    """Trials whose timing took every worker with it."""
    for job in jobs:
        if (job.folder / FILE).exists() and (why := given_up(job.folder)) is not None:
            named = _named(job.label, job.trial.to_json(), job.key)
            yield {**named, "status": "untimed", "reason": f"{why}; running its suite again tries it again"}


def _failed(record: Record) -> dict[str, Any]:
    named = _named(record["label"], record["trial"], record["key"])
    tunes = {"tunes": is_tuning(record["trial"]), "settings": dict(tries_of(record))}
    return {**named, **tunes, "status": record["status"], "reason": record["reason"]}


def _named(label: str, trial: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What people call a trial."""
    return {
        "label": printable(label),
        "model": _spec(trial["model"]),
        "dataset": _spec(trial["dataset"]),
        "density": trial["density"],
        "seed": trial["seed"],
        "key": key,
    }


def _spec(spec: Spec) -> str:
    return printable(spec_text(spec))


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _last_point(curve: Path) -> dict[str, Any]:
    """The last whole line of a curve; empty where there is none yet."""
    try:
        with curve.open("rb") as file:
            file.seek(max(0, curve.stat().st_size - _TAIL))
            lines = file.read(_TAIL).splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            point = json.loads(line)
            if isinstance(point, dict) and isinstance(point.get("epoch"), int):
                return point
    return {}


def _engines(results: Path) -> Iterable[dict[str, Any]]:
    """What engines wrote, oldest first; what can't be understood is left out."""
    for path in sorted((results / ENGINES).glob("[!.]*.json")):
        with suppress(OSError, ValueError, RecursionError):
            said = json.loads(read_plain(path, _LARGEST))
            jobs = said.get("jobs") if isinstance(said, dict) else None
            if isinstance(jobs, list):
                kept = [job for job in jobs if isinstance(job, dict)]
                engine = _text(said.get("engine")) or printable(path.stem)
                yield {"engine": engine, "cancel": _text(said.get("cancel")) or None, "jobs": kept}
