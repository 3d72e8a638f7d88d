"""Whether boards that were written before are what the code that stands here makes of their records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dstbench.report.page import make_boards
from dstbench.report.ranking_rules import rules_digest
from dstbench.results.files import read_plain
from dstbench.results.table import Paths

LARGEST = 2**28  # bytes of a file of a board
_MARK = re.compile(rb'<meta name="dstbench-rules" content="([0-9a-f]{8})">')


@dataclass(frozen=True)
class Staleness:
    """What is no longer so of boards."""

    rules: str  # by which their page was made; "" where it doesn't say
    today: str
    changed: tuple[str, ...]  # files that are there and would be others
    missing: tuple[str, ...]  # files that would be made

    @property
    def is_fresh(self) -> bool:
        """Whether every byte is what would be written today."""
        return not (self.changed or self.missing)

    def lines(self) -> list[str]:
        """For people."""
        if self.is_fresh:
            return [f"Made by today's rules ({self.today}): every file is what would be written today."]
        said = (
            f"the page was made by ranking rules {self.rules}"
            if self.rules
            else "the page names no ranking rules"
        )
        older = (
            [] if self.rules == self.today else [f"older than this code: {said}, today's are {self.today}"]
        )
        changed = [f"differs from what would be written today: {name}" for name in self.changed]
        return [*older, *changed, *(f"missing: {name}" for name in self.missing)]


def staleness(results: Paths, out: str | Path, verdicts: str | Path | None = None) -> Staleness:
    """Hold the files of ``out`` against what ``write_leaderboards`` would write there; nothing is written.

    Raises BadInput where a folder of results or verdicts doesn't exist.
    """
    folder, changed, missing = Path(out), [], []
    for name, text in make_boards(results, folder, verdicts).contents.items():
        there = _bytes(folder / name)
        if there is None:
            missing.append(name)
        elif there != text.encode("utf-8", "backslashreplace"):
            changed.append(name)
    mark = _MARK.search(_bytes(folder / "index.html") or b"")
    return Staleness(mark[1].decode() if mark else "", rules_digest(), tuple(changed), tuple(missing))


def _bytes(file: Path) -> bytes | None:
    try:
        return read_plain(file, LARGEST)
    except (OSError, ValueError):
        return None
