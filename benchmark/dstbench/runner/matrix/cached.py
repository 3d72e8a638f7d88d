"""Files outside of results that save work: each can be lost at any time. Torch-free."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dstbench.results.files import read_plain, write_whole
from dstbench.results.record import canonical

_LARGEST = 2**27  # bytes of a file


def place(kind: str, identity: Any) -> Path | None:
    """The file of what was found out about a JSON value ``identity``; None where there is no place for files."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dstbench"
    except RuntimeError:  # no home
        return None
    name = hashlib.sha256(canonical(identity).encode()).hexdigest()[:32]
    return Path(os.environ.get("DSTBENCH_CACHE") or home) / kind / f"{name}.json"


def recall(file: Path | None) -> Any:
    """The JSON value of a file; None where there is none that can be read."""
    try:
        return None if file is None else json.loads(read_plain(file, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return None


def keep(file: Path | None, value: Any) -> None:
    """Write a JSON value; where that is impossible it will be found out again."""
    if file is not None:
        with contextlib.suppress(OSError, ValueError):
            write_whole(file, json.dumps(value))
