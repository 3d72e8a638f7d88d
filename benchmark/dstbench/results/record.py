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

from typing_extensions import TypedDict

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


class Speed(TypedDict, total=False):
    """One throughput measurement against dense, both timed side by side, each in the layout that suits it."""

    path: str  # execution path: "masked-dense", "compacted", …
    layout: str  # memory format of images and convolutions: "contiguous" or "channels_last"
    dense_layout: str
    images_per_second: float | None
    dense_images_per_second: float | None
    latency_median: float | None  # seconds of one call on one batch
    latency_low: float | None  # 10 % and 90 % quantiles over the timing rounds
    latency_high: float | None
    ratio: float | None  # > 1 = faster than dense
    ratio_low: float | None  # quartiles over the timing rounds
    ratio_high: float | None


class Throughput(TypedDict, total=False):
    """How fast the network really ran, and under which conditions."""

    path: str  # of all measurements, in records whose measurements don't say their own
    batch_size: int
    precision: str
    threads: int
    device: str
    compile: str | None  # torch.compile's mode
    versions: str
    rounds: int
    contended: bool  # something else ran at the same time: shown, not ranked
    train: Speed | None
    inference: Speed | None
    single: Speed | None  # inference of one image


class Measures(TypedDict, total=False):
    """What a trial measured; anything may be missing. FLOPs are totals, ``*_ratio`` are against dense.

    Counts are floats too: a whole number that comes as 12.0 is no reason to refuse a record.
    """

    top1: float | None  # test accuracy of the final epoch, percent
    top1_validation: float | None
    loss: float | None  # mean cross-entropy of the final epoch, test
    density_requested: float | None
    density: float | None  # over the maskable layers in the budget
    density_all: float | None  # over all conv and linear weights
    layers: list[dict[str, Any]] | None
    r_s: float | None  # fraction of weights that were ever active
    never_dropped: float | None  # fraction of the initially active weights that every topology since has held
    channels: dict[str, float] | None  # core.explore.ChannelStatistics, pooled over layers, at the end
    bottom_early: float | None  # share of the final bottom set of channels that was in it after a quarter
    exploration: dict[str, list[float | None]] | None  # over epochs, the first before training
    updates: float | None
    churn: float | None  # mean fraction of active weights replaced in one update
    changed: float | None
    channels_removed: float | None  # output rows that a structure took away for good
    collapsed: float | None
    fallbacks: list[str] | None
    convention: str | None
    inference_flops: float | None
    dense_inference_flops: float | None
    inference_flops_ratio: float | None
    training_flops: float | None
    dense_training_flops: float | None
    training_flops_ratio: float | None
    hardware_flops_ratio: float | None
    flops_by_convention: dict[str, dict[str, float]] | None  # the same ratios by each convention's name
    parameters: float | None
    active_parameters: float | None
    bits: float | None
    peak_memory: float | None  # bytes
    seconds: float | None
    epochs: float | None
    steps: float | None
    throughput: Throughput | None


class Trial(TypedDict):
    """The resolved configuration that the key is made of; more may stand beside these."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    density: float
    seed: int
    recipe: dict[str, Any]


class Schema(TypedDict):
    """A record. More fields than these are kept."""

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
    measures: Measures
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
def _schema() -> TypeAdapter[Schema]:
    from pydantic import TypeAdapter

    return TypeAdapter(Schema)
