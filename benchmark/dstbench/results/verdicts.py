"""What verifying a result found, kept where its submitter can't write. Torch-free.

Trust: a verdict is believed because of where it lies and, with a secret, because of who signed it; never because
of what a submission says of itself. Boards read verdicts only from the folder that they are given (``--verdicts``),
which nobody but the verifier may write, and none from among the results. A verdict names the checksums of the
record and of the checkpoint that it is about, so it lapses when either is changed. Where the environment has a
``DSTBENCH_VERDICT_SECRET``, verdicts are signed with it (HMAC-SHA256), and only those that it signed count.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.results.files import read_plain, write_whole
from dstbench.results.printable import printable, shown
from dstbench.results.record import Record, Rejected, canonical, search_files

TIERS = ("refused", "reported", "re-evaluated", "replayed", "reproduced elsewhere")
"""What is known of a result, the least first: it contradicts itself or what was measured again; its submitter's word,
the checkpoint recounted at most; the checkpoint gives the metric it is said to give; the first steps, retrained, go
the same way; all of it, retrained by the verifier, comes to the same."""
REFUSED, REPORTED, EVALUATED, REPLAYED, REPRODUCED = TIERS
CHECKS = ("reported", "recounted", "re-evaluated", "replayed", "reproduced")
"""What is known of one figure of a result, the least first: its submitter's word; counted from the checkpoint; the
checkpoint evaluated; its beginning retrained; all of it."""
TOLD = CHECKS[0]
VERSION = 1
LARGEST_FILE = 2**20
SECRET = "DSTBENCH_VERDICT_SECRET"


@dataclass(frozen=True)
class Finding:
    """One figure of a record that isn't what it should be."""

    check: str  # "record", "checkpoint", "evaluation", "replay"
    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return printable(f"{self.field}: {self.check} says {self.expected}, the record says {self.got}")


@dataclass(frozen=True)
class Verdict:
    """What verifying one result came to."""

    key: str
    record: str  # the record's checksum
    checkpoint: str | None  # sha256, hex, of the checkpoint's file
    tier: str
    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()  # figures that were made again, such as ``measures.density``
    notes: tuple[str, ...] = ()  # what could not be checked, and why
    steps: int = 0  # that were retrained
    exact: bool | None = None  # whether bit for bit; None: nothing was computed again
    verifier: Mapping[str, Any] = field(default_factory=dict)  # versions and machine
    signature: str | None = None
    how: Mapping[str, str] = field(default_factory=dict)  # figure of ``checked`` -> one of CHECKS

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the result."""
        return self.tier != REFUSED


def write_verdict(verdict: Verdict, folder: Path) -> Path:
    """Write a verdict to ``folder/<key[:2]>/<key>.json``, signed where there is a secret."""
    content = asdict(verdict) | {"version": VERSION, "signature": None}
    if secret := _secret():
        content["signature"] = _signature(content, secret)
    file = folder / verdict.key[:2] / f"{verdict.key}.json"
    write_whole(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return file


def read_verdicts(folder: str | Path) -> tuple[dict[str, Verdict], tuple[Rejected, ...]]:
    """The verdicts of a folder by key, and the files that are none. Raises BadInput where the folder isn't there."""
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"verdicts: expected an existing folder, got {str(root)!r}")
    verdicts: dict[str, Verdict] = {}
    rejected: list[Rejected] = []
    for file in search_files(root, ".json"):
        read = _read(file)
        if isinstance(read, Rejected):
            rejected.append(read)
        elif read.key != file.stem:
            rejected.append(Rejected(file, f"key: the file's name is {file.stem!r}, got {shown(read.key)}"))
        else:
            verdicts[read.key] = read
    return verdicts, tuple(rejected)


def tiers(records: Iterable[Record], verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    """The tier of each record, by key; a verdict of another record of the trial says nothing of this one."""
    return {
        record["key"]: verdict.tier
        if (verdict := verdicts.get(record["key"])) and verdict.record == record["checksum"]
        else REPORTED
        for record in records
    }


def checks(records: Iterable[Record], verdicts: Mapping[str, Verdict]) -> dict[str, Mapping[str, str]]:
    """How each figure of a record was made again, by key; nothing of records that no verdict is about."""
    return {
        record["key"]: verdict.how
        for record in records
        if (verdict := verdicts.get(record["key"])) and verdict.record == record["checksum"]
    }


def _read(file: Path) -> Verdict | Rejected:
    try:
        content = json.loads(read_plain(file, LARGEST_FILE))
    except OSError as error:
        return Rejected(file, f"can't be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return Rejected(file, f"is no verdict: {error}")
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return Rejected(file, f"is no verdict of version {VERSION}")
    if secret := _secret():
        signed, signature = content | {"signature": None}, content.get("signature")
        if not isinstance(signature, str) or not _matches(signed, signature, secret):
            return Rejected(file, f"isn't signed with the secret in {SECRET}")
    return _verdict(content, file)


def _verdict(content: dict[str, Any], file: Path) -> Verdict | Rejected:
    from pydantic import TypeAdapter, ValidationError

    try:
        verdict = TypeAdapter(Verdict).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Rejected(file, f"is no verdict: {where}: {first['msg']}, got {shown(first['input'])}")
    if verdict.tier not in TIERS:
        return Rejected(file, f"tier: expected one of {', '.join(TIERS)}, got {shown(verdict.tier)}")
    if odd := next((f"{name}: {said}" for name, said in verdict.how.items() if said not in CHECKS), None):
        return Rejected(file, f"how: expected one of {', '.join(CHECKS)}, got {shown(odd)}")
    return verdict


def _secret() -> bytes | None:
    return os.environ[SECRET].encode() if os.environ.get(SECRET) else None


def _signature(content: Mapping[str, Any], secret: bytes) -> str:
    return hmac.new(secret, canonical(content).encode(), hashlib.sha256).hexdigest()


def _matches(content: Mapping[str, Any], signature: str, secret: bytes) -> bool:
    try:
        return hmac.compare_digest(_signature(content, secret).encode(), signature.encode())
    except ValueError:  # NaN in the text: we sign none
        return False
