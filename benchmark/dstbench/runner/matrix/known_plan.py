"""Plans that were made before: going on with a large matrix needs neither its networks nor torch. Torch-free."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.registration.loader import BUILTIN, Component
from dstbench.registration.registry import Registry
from dstbench.runner.matrix import cached
from dstbench.runner.matrix.config import Matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.matrix.planned import Plan, PlannedTrial, Tuned
from dstbench.runner.matrix.trial_spec import TrialSpec

FEWEST = 200
"""Trials of a plan that is worth keeping: smaller ones are made in a second or two."""


def known_plan(matrix: Matrix, registry: Registry, *, yes: bool = False) -> Plan:
    """``plan(matrix, registry)``, from the cache where that holds what it would come to now.

    A plan is kept where all components are built in, of which it is known when their code changes, and no file of
    weights is read.
    """
    if matrix.axes.cells < FEWEST or not _is_ours(registry) or _reads_files(matrix):
        return plan(matrix, registry, yes=yes)
    identity = {"matrix": matrix.model_dump(mode="json", by_alias=True), "yes": yes, "code": _code(registry)}
    file = cached.place("plan", identity)
    known = _restored(matrix, cached.recall(file))
    if known is not None:
        return known
    made = plan(matrix, registry, yes=yes)
    content = _content(made)
    if _restored(matrix, content) == made:  # not where a specification is more than its JSON says
        cached.keep(file, content)
    return made


def _reads_files(matrix: Matrix) -> bool:
    """Whether trials start from weights, which may be others by now."""
    return matrix.start is not None or any(
        name.startswith("start.") for override in matrix.overrides for name in override.set
    )


def _is_ours(registry: Registry) -> bool:
    return not registry.disabled and all(
        component.distribution == BUILTIN and isinstance(component.target, str)
        for component in _components(registry)
    )


def _components(registry: Registry) -> list[Component]:
    return [component for kind in registry for component in registry[kind].values()]


def _code(registry: Registry) -> list[Any]:
    """Changes whenever a plan may: with any file of ours, with Python, and with the libraries that build networks."""
    versions = [platform.python_version(), *(version(name) for name in ("torch", "torchvision", "timm"))]
    files = []
    for package in sorted({str(component.target).partition(".")[0] for component in _components(registry)}):
        spec = find_spec(package)
        root = Path(spec.origin or "").parent if spec is not None else Path()
        for path in sorted(root.rglob("*.py")):
            status = path.stat()
            files.append([str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
    return [versions, files]


def _content(made: Plan) -> dict[str, Any]:
    return {
        "trials": [_plain(trial) for trial in made.trials],
        "tuning": [_plain(trial) for trial in made.tuning],
        "excluded": made.excluded,
        "duplicates": made.duplicates,
        "notes": list(made.notes),
    }


def _restored(matrix: Matrix, content: Any) -> Plan | None:
    """The plan that a file says; None where it says none."""
    if not isinstance(content, Mapping):
        return None
    try:
        trials, tuning = (tuple(map(_planned, content[name])) for name in ("trials", "tuning"))
        notes = tuple(map(str, content["notes"]))
        return Plan(matrix, trials, content["excluded"], content["duplicates"], notes, tuning=tuning)
    except (BadInput, KeyError, TypeError, ValueError):
        return None


def _plain(trial: PlannedTrial) -> list[Any]:
    """A planned trial as JSON."""
    tuned = trial.tuned and [trial.tuned.place, trial.tuned.settings, trial.tuned.trials]
    others = [[key, other.to_json()] for key, other in trial.others]
    kept = (trial.label, trial.control, trial.skip, dict(trial.settings), trial.group)
    return [trial.key, trial.trial.to_json(), *kept, tuned, others]


def _planned(plain: Sequence[Any]) -> PlannedTrial:
    key, trial, label, control, skip, settings, group, tuned, others = plain
    choice = tuned and Tuned(tuned[0], tuple(tuned[1]), tuple(map(tuple, tuned[2])))
    return PlannedTrial(
        key, TrialSpec.from_json(trial), label, control, skip, settings, group, choice,
        tuple((name, TrialSpec.from_json(other)) for name, other in others),
    )  # fmt: skip
