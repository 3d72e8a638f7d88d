"""What happened to trials, as lines of JSON: one file a process, below ``events`` in a results folder. Torch-free.

Nobody else writes to a file, so lines are whole on any file system; ``cat events/*.jsonl`` is all of them, and their
``time`` (UTC) puts them in order.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dstbench.results.printable import printable
from dstbench.runner.execution.worker import Event

FOLDER = "events"
"""In a results folder."""
_ODD = re.compile(r"[^A-Za-z0-9.-]+")


class EventLog:
    """Writes a line an event and passes the event on. A full disk loses lines, never a trial."""

    def __init__(self, results: Path, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z-{_ODD.sub('-', platform.node())}-{os.getpid()}"
        self._file = results / FOLDER / f"{name}.jsonl"

    def __call__(self, event: Event) -> None:
        """An event of a trial."""
        trial = event.job.trial
        line = {
            "kind": event.kind,
            "phase": event.job.phase,
            "key": event.job.key,
            "label": event.job.label,
            "density": trial.density,
            "seed": trial.seed,
            **({"tunes": True} if trial.tunes else {}),
            **({"settings": dict(event.job.settings)} if event.job.settings else {}),
        }
        if event.kind == "finished":
            line |= {"status": event.status, "seconds": round(event.seconds, 3)}
        self.say({**line, "reason": event.reason} if event.reason else line)
        self._on_event(event)

    def say(self, line: dict[str, Any]) -> None:
        """Append a line with the time, and who says it."""
        whole = {"time": datetime.now(UTC).isoformat(), "host": platform.node(), "pid": os.getpid(), **line}
        text = f"{printable(json.dumps(whole))}\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                size = file.tell()
                if file.write(text.encode()) < len(text):
                    file.truncate(size)  # half a line is none
        except OSError:
            pass
