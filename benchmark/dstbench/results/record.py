"""The result record: its schema, its checksum, and how one is written and read. Torch-free.

A trial's folder is ``results/<key[:2]>/<key>/``; its record is ``result.json`` in there. What can't be
trusted (truncated, newer, edited, wrong types) is never an exception and never overwritten: reading gives
a ``Rejected`` that says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstbench.results.files import read_plain, write_whole
from dstbench.results.plain_text import is_plain, sealed_record
from dstbench.results.printable import printable, shown
from dstbench.results.schema import escaped, fitted, problem

SCHEMA_VERSION = 1
FILE = "result.json"
LARGEST_FILE = 2**23
"""Bytes of a record's file. One of a network of a thousand layers has a twentieth of it."""
DEEPEST = 32
"""Levels of folders below a results folder that are searched: a trial is two down."""
STATUSES = ("ok", "failed", "oom", "timeout", "diverged", "killed", "skipped")

Record = dict[str, Any]
Migration = Callable[[Record], Record]

MIGRATIONS: dict[int, Migration] = {}
"""Schema version -> what turns a record of it into one of the next version (in memory; files stay)."""

_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(("reason", "phase", "traceback", "control")),
    "measures": {},
    "provenance": {},
}


@dataclass(frozen=True)
class Rejected:
    """A result file that isn't used, and why."""

    path: Path
    reason: str
    fault: bool = False  # whether that is an error of ours, which nothing in the file explains
    unread: bool = False  # whether the system didn't let it be read, which may pass

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}")

    @property
    def place(self) -> str:
        """Where it is in its results folder, wherever that is."""
        return printable("/".join(self.path.parts[-3:]))


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII; NaN and infinities are refused."""
    return _CANONICAL.encode(value)


def checksum(record: Mapping[str, Any]) -> str:
    """sha256, hex, of the canonical JSON of a record without its ``checksum`` field."""
    content = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def seal(record: Mapping[str, Any]) -> Record:
    """A record ready to write: plain JSON values (NaN and infinities become null), what isn't printable escaped,
    texts shortened to what the schema allows, version and checksum set.

    Raises ValueError, naming the field, where a value doesn't fit the schema: an unreadable record must
    not come into being.
    """
    plain = json.loads(json.dumps({**_DEFAULTS, **record}), parse_constant=lambda _: None)
    ready: Record = fitted(escaped(plain)) | {"schema_version": SCHEMA_VERSION}
    ready["checksum"] = checksum(ready)
    if wrong := problem(ready):
        raise ValueError(f"result record: {wrong}")
    return ready


def folder_of(results: Path, key: str) -> Path:
    """Where a trial's files are."""
    return results / key[:2] / key


def write_record(record: Mapping[str, Any], folder: Path, scratch: Path | None = None) -> Record:
    """Seal a record and write it to ``folder/result.json`` atomically, by way of ``scratch``; returns what was
    written."""
    sealed = seal(record)
    write_whole(folder / FILE, json.dumps(sealed, indent=1) + "\n", scratch)
    return sealed


@contextmanager
def remembering() -> Iterator[None]:
    """Inside, each record is read once, as long as its file doesn't change. For a command that reads results for
    several purposes; what was read must not be changed."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def is_remembering() -> bool:
    """Whether records are ``remembering``: in this process alone."""
    return _remembered.get() is not None


_remembered: ContextVar[dict[tuple[Any, ...], Record | Rejected] | None] = ContextVar(
    "remembered", default=None
)
_SETTLED = 2.0
"""Seconds after which another write of a file is sure to change its time stamp."""


def read_record(path: Path) -> Record | Rejected:
    """Read one ``result.json`` (or the folder that holds it). Never raises for what the file contains.

    What isn't printable in its texts is escaped: the record can be shown as it is.
    """
    path = path / FILE if path.name != FILE and path.is_dir() else path
    remembered, stamp = _remembered.get(), None
    if remembered is not None:
        with suppress(OSError):
            status = path.stat()
            if time.time() - status.st_mtime > _SETTLED:
                stamp = path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if remembered is None or stamp is None:
        return _read(path)
    if stamp not in remembered:
        remembered[stamp] = _read(path)
    return remembered[stamp]


def _read(path: Path) -> Record | Rejected:
    try:
        content = read_plain(path, LARGEST_FILE)
    except OSError as error:
        return Rejected(path, f"can't be read: {error.strerror}", unread=True)
    except ValueError as error:
        return Rejected(path, str(error))
    record = sealed_record(content)
    if record is not None and _is_today(record.get("schema_version")):
        return _migrated(record, path, plain=True)
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        record = json.loads(text, object_pairs_hook=_without_duplicates)
    except _DuplicateKeyError as error:
        return Rejected(path, str(error))
    except (ValueError, RecursionError) as error:
        return Rejected(path, f"is not valid JSON (truncated?): {error}")
    wrong = _untrusted(record)
    return Rejected(path, wrong) if wrong else _migrated(record, path, is_plain(text))


def read_trial(path: Path) -> Record | Rejected:
    """``read_record`` of a trial's own folder: another trial's record in it is rejected."""
    record = read_record(path)
    if isinstance(record, Rejected):
        return record
    file = path if path.name == FILE else path / FILE
    if record["key"] != file.parent.name and record["key"] != file.parent.resolve().name:
        return Rejected(file, f"key: the folder's name is {file.parent.name!r}, got {record['key']!r}")
    return record


def record_files(results: Path) -> Iterator[Path]:
    """Every ``result.json`` under a folder, in a deterministic order."""
    return (path for path in search(results) if isinstance(path, Path))


def search(results: Path) -> Iterator[Path | Rejected]:
    """Every ``result.json`` under a folder, in a deterministic order, and every folder that can't be searched.

    Links to folders are followed, each folder once. Hidden ones are left aside: half-done copies.
    """
    return _search(results, DEEPEST, set())


def search_files(folder: Path, suffix: str) -> Iterator[Path]:
    """Every plain file below a folder whose name ends so, in a deterministic order; links are not followed."""
    for path in sorted(folder.rglob(f"*{suffix}")):
        if path.is_file() and not path.is_symlink():
            yield path


def _search(folder: Path, levels: int, seen: set[tuple[int, int]]) -> Iterator[Path | Rejected]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        if any(entry.name == FILE for entry in entries):
            yield folder / FILE  # a trial's folder holds no other trial
            return
        below = [entry for entry in entries if not entry.name.startswith(".")]
        lost = [entry for entry in below if entry.is_symlink() and not Path(entry).exists()]
        below = [entry for entry in below if entry not in lost and entry.is_dir()]
    except OSError as error:
        if levels == DEEPEST or not isinstance(error, FileNotFoundError):  # else it went while a trial ran
            yield Rejected(folder, f"can't be searched: {error.strerror}")
        return
    yield from (Rejected(Path(entry), "is a link to nothing") for entry in lost)
    if below and not levels:
        yield Rejected(folder, f"is {DEEPEST} levels deep: what is below was not searched")
        return
    for entry in below:
        yield from _search(Path(entry), levels - 1, seen)


class _DuplicateKeyError(ValueError):
    """A name that is twice in one JSON object: readers differ in which of the values counts."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKeyError(f"{shown(twice)} is there twice in one JSON object")
    return content


def _untrusted(record: Any) -> str | None:
    """Why a parsed file isn't a record that this version can trust; None where it is."""
    if not isinstance(record, dict):
        return f"expected a JSON object, got {type(record).__name__}"
    version = record.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        return f"schema_version: expected an integer, got {shown(version)}"
    if version > SCHEMA_VERSION:
        return f"schema_version {shown(version)} is newer than {SCHEMA_VERSION}: update dstbench to read it"
    try:
        matches = record.get("checksum") == checksum(record)
    except (ValueError, RecursionError):
        matches = False  # NaN in the text: no writer of ours leaves one
    return None if matches else "its content doesn't match its checksum: edited after it was written?"


def _is_today(version: Any) -> bool:
    return type(version) is int and version == SCHEMA_VERSION


def _migrated(record: Record, path: Path, plain: bool) -> Record | Rejected:
    """Bring an older record to today's schema and check its types. plain: ``is_plain`` of its text."""
    while (version := record["schema_version"]) < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            return Rejected(
                path, f"schema_version {version} can't be read any more (oldest: {SCHEMA_VERSION})"
            )
        record = {**MIGRATIONS[version](record), "schema_version": version + 1}
        plain = False  # the text that was looked at was another one
    try:
        record = record if plain else escaped(record)
    except ValueError as error:
        return Rejected(path, str(error))
    wrong = problem(record, plain)
    return Rejected(path, wrong) if wrong else record
