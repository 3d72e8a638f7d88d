"""Trials that lost their workers. One that takes every worker with it is given up, and becomes a row with a reason.

What a lost holder said of itself goes to ``losses/<token>`` of the trial's folder, with the time of its last beat, by
the one rename that takes its lease away: whoever takes that does it, or a supervisor whose scheduler was killed. What
was lost before the checkpoint or the record that is there doesn't count: the trial gets on, however often nodes die.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dstbench.results.files import read_plain
from dstbench.results.printable import printable
from dstbench.results.record import FILE
from dstbench.results.steady import entries, is_there, modified, steadily

FOLDER = "losses"
"""In a trial's folder."""
HOLDER = "holder.json"
"""In a lease: who holds it, since when; touched at every beat."""
MOST = 3
"""Workers that a trial may lose without getting on."""
_LARGEST = 2**16  # bytes of what a holder says


def note(held: Path, folder: Path) -> None:
    """Take a lost holder's lease away, and keep what it said of itself; nothing where that can't be."""
    with suppress(OSError):
        steadily(lambda: (folder / FOLDER).mkdir(exist_ok=True))
        noted = folder / FOLDER / held.name
        steadily(lambda: held.rename(noted))
        for unfinished in entries(noted):
            if unfinished.name != HOLDER:
                unfinished.unlink()


def lost_on(folder: Path) -> list[str]:
    """The nodes on which a trial lost its worker since it last got on, in order."""
    if not (lost := entries(folder / FOLDER)):
        return []
    kept = [folder / FILE, *(path for path in entries(folder) if path.name.startswith("checkpoint"))]
    since = max(modified(path) or 0.0 for path in kept)
    later = [(when, path) for path in lost if (when := modified(path / HOLDER) or 0.0) > since]
    return [_node(path) for _, path in sorted(later)]


def given_up(folder: Path) -> str | None:
    """Why no worker is to run a trial any more; None where one may."""
    nodes = lost_on(folder)
    if len(nodes) < MOST:
        return None
    return f"lost its worker {len(nodes)} times, and never got on: on {', '.join(nodes)}"


def forget(folder: Path) -> None:
    """A trial begins anew, or has ended."""
    if is_there(folder / FOLDER):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def name_of(said: Mapping[str, Any]) -> str:
    """A holder's node, as people know it."""
    known = said.get("node") or said.get("host")
    return printable(known) if isinstance(known, str) else "unknown"


def _node(path: Path) -> str:
    with suppress(OSError, ValueError, RecursionError):
        said = json.loads(read_plain(path / HOLDER, _LARGEST))
        if isinstance(said, dict):
            return name_of(said)
    return "unknown"
