"""What an engine was given to do for a results folder, as files in it: ``RESULTS/engine/<engine>-<name>.json``.

They serve people, ``dstbench status`` and a later run, which goes on with the workers that are there. Whether a trial
is running or done they don't say: its lease and its record do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstbench.results.files import read_plain, write_whole
from dstbench.runner.execution.status import ENGINES

_LARGEST = 2**24  # bytes; a job takes about a hundred


@dataclass
class Submission:
    """Jobs that were submitted together."""

    path: Path
    engine: str  # "slurm", "ray"
    submitted: float  # seconds since the epoch
    host: str  # that submitted them
    cancel: str = ""  # the command that ends them
    jobs: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # id -> state, node, reason: the engine's words

    @property
    def left(self) -> list[str]:
        """The ids of those that aren't known to have ended."""
        return [name for name, job in self.jobs.items() if not job.get("ended")]

    def update(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what the engine says of its jobs, and write it down where it is new."""
        new = {name: {**job, **states.get(name, {})} for name, job in self.jobs.items()}
        if new != self.jobs:
            self.jobs = new
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        jobs = [{"id": name, "submitted": self.submitted, **job} for name, job in self.jobs.items()]
        content = {
            "engine": self.engine, "submitted": self.submitted, "host": self.host, "cancel": self.cancel,
            "jobs": jobs,
        }  # fmt: skip
        write_whole(self.path, json.dumps(content, indent=1) + "\n")


def submissions(results: Path, engine: str) -> list[Submission]:
    """What an engine was given for a results folder, oldest first; a file that can't be understood counts as none."""
    submissions = [_read(path) for path in (results / ENGINES).glob(f"{engine}-*.json")]
    return sorted((one for one in submissions if one is not None), key=lambda one: (one.submitted, one.path))


def _read(path: Path) -> Submission | None:
    try:
        content = json.loads(read_plain(path, _LARGEST))
        jobs = {str(job.pop("id")): job for job in content["jobs"]}
        for job in jobs.values():
            job.pop("submitted", None)
        return Submission(
            path, str(content["engine"]), float(content["submitted"]), str(content["host"]),
            str(content["cancel"]), jobs,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
