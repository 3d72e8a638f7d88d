"""An order as a file of its results folder: whoever sees the folder, on whatever machine, can take part.

``plans/<suite>-<8 hex>.json`` holds all that a job is but its folder, so no matrix file is needed and no plan made
anew: each job's fields as JSON, those that all jobs of a phase share once. The name follows from the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.results.files import read_plain, write_whole
from dstbench.results.printable import shown
from dstbench.results.record import Rejected, canonical, folder_of
from dstbench.results.steady import entries
from dstbench.results.storage import patiently
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.key import digest
from dstbench.runner.matrix.planned import Tuned
from dstbench.runner.matrix.start import reachable
from dstbench.runner.matrix.trial_spec import TrialSpec

FOLDER = "plans"
"""In a results folder."""
VERSION = 1
LARGEST = 2**28
"""Bytes of a plan. One of a thousand trials has a five-hundredth of it."""
_PHASES = ("train", "throughput")
_KEY = re.compile(r"[0-9a-f]{8,64}")  # it becomes a folder name: nothing else may get through
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def write_plan(order: Order, suite: str) -> Path:
    """Write an order into its results folder, whole or not at all; the same order has the same file."""
    content = {
        "version": VERSION,
        "suite": suite,
        "preload": list(order.preload),
        **{phase: _shared([_fields_of(job) for job in getattr(order, phase)]) for phase in _PHASES},
    }
    name = f"{_ODD.sub('-', suite)[:60]}-{digest(content)[:8]}.json"
    text = json.dumps(content, indent=1) + "\n"
    patiently(lambda: write_whole(order.results / FOLDER / name, text))
    return order.results / FOLDER / name


def read_plan(path: Path) -> Order:
    """What ``write_plan`` wrote; its results folder is where the file is. Raises BadInput, naming the file, for
    anything else."""
    try:
        content = json.loads(read_plain(path, LARGEST))
        if (version := content["version"]) != VERSION:
            raise BadInput(f"expected a plan of version {VERSION}, got {shown(version)}: update dstbench")
        results = path.parent.parent
        jobs = {phase: tuple(_jobs(content[phase], results, phase)) for phase in _PHASES}
        return Order(results, jobs["train"], jobs["throughput"], tuple(map(str, content["preload"])))
    except OSError as error:
        raise BadInput(f"{path}: can't be read: {error.strerror}") from error
    except KeyError as error:
        raise BadInput(f"{path}: is no plan: {error} is missing") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # BadInput is a ValueError
        raise BadInput(f"{path}: is no plan: {error}") from error


def read_plans(results: Path, names: Sequence[str] = ()) -> tuple[Order, tuple[Rejected, ...]]:
    """One order of all plans of a results folder, or of those named; and the files that aren't used.

    Where plans differ on a trial the newest counts. Raises BadInput where there is no plan, or none of that name.
    """
    plans = [path for path in entries(results / FOLDER) if path.suffix == ".json" and path.name[0] != "."]
    by_name = {path.stem: path for path in plans}
    for name in names:
        if name.removesuffix(".json") not in by_name:
            raise BadInput(f"{results}: has no plan {name!r}, but {', '.join(sorted(by_name)) or 'none'}")
    wanted = [by_name[name.removesuffix(".json")] for name in names] or list(by_name.values())
    if not wanted:
        raise BadInput(f"{results}: has no plan; `dstbench run SUITE --out {results}` writes one")
    orders: list[Order] = []
    rejected: list[Rejected] = []
    for path in sorted(wanted, key=_age):
        try:
            orders.append(read_plan(path))
        except BadInput as error:
            rejected.append(Rejected(path, str(error).removeprefix(f"{path}: ")))
    return _joined(results, orders), tuple(rejected)


def _joined(results: Path, orders: Sequence[Order]) -> Order:
    """One order; of two jobs on one trial the first is kept, but one that is wanted anyway before one that may be."""
    jobs: dict[str, dict[str, Job]] = {phase: {} for phase in _PHASES}
    for order in orders:
        for phase in _PHASES:
            for job in getattr(order, phase):
                kept = jobs[phase].setdefault(job.key, job)
                if kept.tuned is not None and job.tuned is None:
                    jobs[phase][job.key] = job  # wanted whatever tuning comes to
    preload = dict.fromkeys(module for order in orders for module in order.preload)
    train, throughput = (tuple(jobs[phase].values()) for phase in _PHASES)
    return Order(results, train, throughput, tuple(preload))


def _age(path: Path) -> tuple[int, str]:
    """The newest first."""
    try:
        return -path.stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


def _fields_of(job: Job) -> dict[str, Any]:
    """A job as JSON, without its folder, its phase and what is at its default."""
    values = {field.name: getattr(job, field.name) for field in fields(Job)}
    trial = {**job.trial.to_json(), **({"start": reachable(job.trial.start)} if job.trial.start else {})}
    plain = {**values, "trial": trial, "retry": sorted(job.retry), "tuned": _choice(job.tuned)}
    plain["options"] = {name: _portable(value) for name, value in job.options.items()}
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(Job)
    }
    kept = {name: value for name, value in plain.items() if name not in ("folder", "phase")}
    return {name: value for name, value in kept.items() if values[name] != defaults[name]}


def _choice(tuned: Tuned | None) -> dict[str, Any] | None:
    """What decides whether a job is wanted, as JSON."""
    if tuned is None:
        return None
    candidates = [
        {"settings": dict(settings), "trials": list(keys)}
        for settings, keys in zip(tuned.settings, tuned.trials, strict=True)
    ]
    return {
        "place": tuned.place, "mine": tuned.mine, "replaced": sorted(tuned.replaced), "candidates": candidates
    }  # fmt: skip


def _chosen_by(said: Mapping[str, Any] | None) -> Tuned | None:
    if said is None:
        return None
    keys = tuple(tuple(map(_key, one["trials"])) for one in said["candidates"])
    settings = tuple(dict(one["settings"]) for one in said["candidates"])
    mine = said["mine"]
    if not isinstance(mine, int) or not 0 <= mine < len(keys):
        raise BadInput(f"tuned.mine: expected one of {len(keys)} candidates, got {shown(mine)}")
    return Tuned(_key(said["place"]), settings, keys, mine, frozenset(map(str, said["replaced"])))


def _key(key: Any) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadInput(f"key: expected 8 to 64 hexadecimal digits, got {shown(key)}")
    return key


def _portable(value: Any) -> Any:
    """A path as text that means the same to a process that was started in another folder."""
    return str(value.absolute()) if isinstance(value, Path) else value


def _shared(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Jobs, with what is the same in all of them said once."""
    first = jobs[0] if jobs else {}
    same = {
        name: value
        for name, value in first.items()
        if len(jobs) > 1 and all(name in job and canonical(job[name]) == canonical(value) for job in jobs)
    }
    return {
        "all": same,
        "jobs": [{name: value for name, value in job.items() if name not in same} for job in jobs],
    }


def _jobs(content: Mapping[str, Any], results: Path, phase: str) -> list[Job]:
    return [_job({**content["all"], **job}, results, phase) for job in content["jobs"]]


def _job(values: Mapping[str, Any], results: Path, phase: Any) -> Job:
    known = {field.name for field in fields(Job)}
    if unknown := sorted(values.keys() - known):
        raise BadInput(f"a job has {shown(unknown[0])}, which this version doesn't know: update dstbench")
    key = _key(values["key"])
    options = dict(values.get("options", {}))
    if options.get("data_root"):
        options["data_root"] = Path(options["data_root"])
    own = {
        "trial": TrialSpec.from_json(values["trial"]),
        "folder": folder_of(results.absolute(), key),
        "phase": phase,
        "options": options,
        "retry": frozenset(values.get("retry", ())),
        "control": values.get("control"),
        "settings": dict(values.get("settings", {})),
        "tuned": _chosen_by(values.get("tuned")),
        "stops_with": None if (word := values.get("stops_with")) is None else str(word),
    }
    return Job(**{**values, **own})
