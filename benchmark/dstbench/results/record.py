"""The result record: its schema, its checksum, and how one is written and read. Torch-free.

A trial's folder is ``results/<key[:2]>/<key>/``; its record is ``result.json`` in there. What can't be
trusted (truncated, newer, edited, wrong types) is never an exception and never overwritten: reading gives
a ``Rejected`` that says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict, get_type_hints

from dstbench.results.measure_table import MEASURES

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 1
FILE = "result.json"
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
_KEY = re.compile(r"[0-9a-f]{8,64}")  # it becomes a folder name: nothing else may get through


class Trial(TypedDict):
    """The resolved configuration that the key is made of; more may stand beside these."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    density: float
    seed: int
    recipe: dict[str, Any]


class Schema(TypedDict):
    """A record. More fields than these are kept; which measures there are, ``MEASURES`` says."""

    schema_version: int
    key: str
    checksum: str
    status: Literal["ok", "failed", "oom", "timeout", "diverged", "killed", "skipped"]
    reason: str | None
    phase: str | None
    traceback: str | None
    trial: Trial
    label: str
    control: str | None
    measures: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Rejected:
    """A result file that isn't used, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(record: Mapping[str, Any]) -> str:
    """sha256, hex, of the canonical JSON of a record without its ``checksum`` field."""
    content = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def seal(record: Mapping[str, Any]) -> Record:
    """A record ready to write: plain JSON values (NaN and infinities become null), version and checksum set.

    Raises ValueError, naming the field, where a value doesn't fit the schema: an unreadable record must
    not come into being.
    """
    plain: Record = json.loads(json.dumps({**_DEFAULTS, **record}), parse_constant=lambda _: None)
    plain["schema_version"] = SCHEMA_VERSION
    plain["checksum"] = checksum(plain)
    if problem := _problem(plain):
        raise ValueError(f"result record: {problem}")
    return plain


def folder_of(results: Path, key: str) -> Path:
    """Where a trial's files are."""
    return results / key[:2] / key


def write_record(record: Mapping[str, Any], folder: Path) -> Record:
    """Seal a record and write it to ``folder/result.json`` atomically; returns what was written."""
    sealed = seal(record)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".result-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(sealed, file, indent=1)
            file.write("\n")
        Path(name).chmod(0o644)  # mkstemp's 0600 would lock others out of shared results
        os.replace(name, folder / FILE)  # noqa: PTH105  (the name is a str here)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return sealed


def read_record(path: Path) -> Record | Rejected:
    """Read one ``result.json`` (or the folder that holds it). Never raises for what the file contains."""
    path = path / FILE if path.is_dir() else path
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (10,000 times: pathlib's open is measurably slower)
            record = json.loads(file.read())
    except OSError as error:
        return Rejected(path, f"can't be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return Rejected(path, f"is not valid JSON (truncated?): {error}")
    problem = _untrusted(record)
    return Rejected(path, problem) if problem else _migrated(record, path)


def record_files(results: Path) -> Iterator[Path]:
    """Every ``result.json`` under a folder, in a deterministic order."""
    for folder, below, files in os.walk(results):
        below[:] = sorted(name for name in below if not name.startswith("."))  # hidden: half-done copies
        if FILE in files:
            below.clear()  # a trial's folder holds no other trial
            yield Path(folder, FILE)


def _untrusted(record: Any) -> str | None:
    """Why a parsed file isn't a record that this version can trust; None where it is."""
    if not isinstance(record, dict):
        return f"expected a JSON object, got {type(record).__name__}"
    version = record.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        return f"schema_version: expected an integer, got {version!r}"
    if version > SCHEMA_VERSION:
        return f"schema_version {version} is newer than {SCHEMA_VERSION}: update dstbench to read it"
    try:
        matches = record.get("checksum") == checksum(record)
    except (ValueError, RecursionError):
        matches = False  # NaN in the text: no writer of ours leaves one
    return None if matches else "its content doesn't match its checksum: edited after it was written?"


def _migrated(record: Record, path: Path) -> Record | Rejected:
    """Bring an older record to today's schema and check its types."""
    while (version := record["schema_version"]) < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            return Rejected(
                path, f"schema_version {version} can't be read any more (oldest: {SCHEMA_VERSION})"
            )
        record = {**MIGRATIONS[version](record), "schema_version": version + 1}
    problem = _problem(record)
    return Rejected(path, problem) if problem else record


def _problem(record: Record) -> str | None:
    """The first thing that doesn't fit the schema: field, what was expected, what came."""
    from pydantic import ValidationError

    try:
        _schema().validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "record"
        return f"{where}: {first['msg']}, got {_short(first['input'])}"
    if not _KEY.fullmatch(record["key"]):
        return f"key: expected 8 to 64 hexadecimal digits, got {_short(record['key'])}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _schema() -> TypeAdapter[Any]:
    """``Schema`` with the types of the measures, each of which may be missing or None."""
    from pydantic import TypeAdapter

    typed_dict: Any = TypedDict  # a type checker knows only those whose fields are written out
    fields = {row.key: row.type | None for row in MEASURES.values() if row.type}
    measures = typed_dict("Measures", fields, total=False)
    return TypeAdapter(typed_dict("Schema", get_type_hints(Schema) | {"measures": measures}))
