"""What a benchmark shows while it runs: each row as it comes, and on a terminal how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from dstbench.bench.subject import Row

_SHARE, _TIMES, _MS = "_share", ("ratio", "arithmetic", "roofline", "speedup"), "_ms"


class Progress:
    """Rows of some columns under one heading, on the error stream."""

    def __init__(self, columns: Sequence[str], parts: int) -> None:
        self._columns = columns
        self._widths: list[int] | None = None
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Bar(
            BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task: TaskID = self._bar.add_task("", total=parts)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """A part begins."""
        self._bar.update(self._task, description=name)

    def end(self) -> None:
        """A part is done."""
        self._bar.advance(self._task)

    def show(self, row: Row) -> None:
        """Print a row, and above the first one the heading."""
        cells = [cell(name, row.get(name)) for name in self._columns]
        if self._widths is None:
            names = [name.removesuffix(_MS) + " ms" * name.endswith(_MS) for name in self._columns]
            names = [name.replace(_SHARE, " of peak") for name in names]
            self._widths = [max(len(a), len(b)) for a, b in zip(names, cells, strict=True)]
            self._print(self._line(names))
        self._print(self._line(cells))
        if row.get("note"):
            self._print(f"  {row['note']}")

    def fail(self, name: str, reason: str) -> None:
        """A part could not be measured."""
        self._print(f"{name}: failed: {reason}")

    def _line(self, cells: Sequence[str]) -> str:
        widths = self._widths or []
        return "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)


def cell(name: str, value: object) -> str:
    """A figure with its unit: shares in percent, ratios as multiples."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if name.endswith(_SHARE):
        return f"{value:.0%}"
    return f"{value:.2f}x" if name in _TIMES else f"{value:.2f}"
