"""Community results in, checked: merging never overwrites, and validating never changes anything."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dstbench.results.files import make_folder
from dstbench.results.record import FILE, Record, Rejected, folder_of, read_trial
from dstbench.results.table import Paths, read_briefly, roots, trials


@dataclass(frozen=True)
class Merged:
    """What a merge did. ``conflicts`` were left as they are in the target."""

    copied: tuple[str, ...]  # keys
    same: tuple[str, ...]  # keys that the target had already, with the same content
    conflicts: tuple[Rejected, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Validated:
    """What a results folder holds."""

    ok: int  # records that can be read and trusted, whatever became of their trials
    statuses: Mapping[str, int]
    rejected: tuple[Rejected, ...]
    tuning: int = 0  # of these, trials that chose settings for others


def merge(sources: Paths, out: str | Path) -> Merged:
    """Copy every valid trial folder of the sources into ``out``.

    A key that ``out`` has already stays as it is: silently where the content is the same, else named as a
    conflict. Files that can't be trusted are named and left out. Raises BadInput where a source doesn't exist.
    """
    target = Path(out)
    make_folder(target)
    copied: list[str] = []
    same: list[str] = []
    conflicts: list[Rejected] = []
    rejected: list[Rejected] = []
    with tempfile.TemporaryDirectory(dir=target, prefix=".merge-") as scratch:
        for path, record in (trial for root in roots(sources) for trial in trials(root)):
            if isinstance(record, Rejected):
                rejected.append(record)
            elif (folder := folder_of(target, record["key"])).exists():
                conflict = _conflict(path, record, folder)
                conflicts.append(conflict) if conflict else same.append(record["key"])
            else:
                _copy(path.parent, folder, Path(scratch))
                copied.append(record["key"])
    return Merged(tuple(copied), tuple(same), tuple(conflicts), tuple(rejected))


def validate(results: Paths) -> Validated:
    """Read every record under a folder, as boards do: how many can be trusted, how their trials ended, which can't
    and why."""
    loaded = read_briefly(results)
    statuses = Counter(record["status"] for record in (*loaded.records, *loaded.tuning))
    known = dict(sorted(statuses.items()))
    return Validated(statuses.total(), known, loaded.rejected, len(loaded.tuning))


def _conflict(path: Path, record: Record, folder: Path) -> Rejected | None:
    """Why the target's folder isn't this record; None where it is."""
    there = read_trial(folder)
    if isinstance(there, Rejected):
        return Rejected(
            path, f"the target's own {there.path.name} for this trial {there.reason}; left as it is"
        )
    if there["checksum"] != record["checksum"]:
        return Rejected(
            path, f"the target has another result of trial {record['key'][:12]}; kept the target's"
        )
    return None


def _copy(source: Path, folder: Path, scratch: Path) -> None:
    """Copy a trial's plain files to ``scratch``, on the same file system, then rename: a reader never sees half a
    folder.

    Links are left out: results come from others, and a link could name any file of this machine. The record itself,
    which was read and found to be one, is copied wherever it lies.
    """
    ready = scratch / folder.name
    ready.mkdir()
    for file in sorted(source.iterdir()):
        if file.name == FILE or (file.is_file() and not file.is_symlink()):
            shutil.copy2(file, ready / file.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    ready.rename(folder)
