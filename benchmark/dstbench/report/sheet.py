"""A table for any terminal width: names and digits stay whole, what is needed least goes first.

``rich.table`` shrinks a column by cropping its numbers; this one leaves whole columns out, says which, and gives a
name that has no room a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

COMFORTABLE = 30  # a name column narrower than this costs a droppable column its place


@dataclass(frozen=True)
class Field:
    """One column of figures. ``spare``: 0 is never left out; of the others the highest goes first."""

    title: str  # lines apart
    spare: int = 0
    right: bool = True


@dataclass(frozen=True)
class Entry:
    """One row: what stands before its name, its name, a cell a field, and a remark in a line of its own."""

    name: str
    cells: tuple[str, ...]
    lead: str = ""
    remark: str = ""
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table whose layout follows the width it is printed in; ``sections`` are set apart by an empty line."""

    fields: tuple[Field, ...]
    sections: tuple[tuple[Entry, ...], ...]
    title: str = ""
    lead: str = ""
    name: str = "method"
    gap: int = 2  # blanks between columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, none wider than the console unless one cell is."""
        from rich.text import Text

        layout = _layout(self, options.max_width)
        if self.title:
            yield Text(f"{self.title}\n", style="bold")
        yield from layout.heading(self)
        for place, section in enumerate(self.sections):
            if place:
                yield Text("")
            for entry in section:
                yield from layout.row(entry, console)
        if left_out := [field for i, field in enumerate(self.fields) if i not in layout.shown]:
            titles = ", ".join(" ".join(field.title.split()) for field in left_out)
            yield Text(f"no room for: {titles}", style="dim")


@dataclass(frozen=True)
class _Layout:
    """Which fields are shown, and how many cells everything takes."""

    shown: tuple[int, ...]  # of the fields, by place
    widths: tuple[int, ...]  # of those shown
    rights: tuple[bool, ...]
    lead: int
    name: int
    whole: int
    gap: int

    def heading(self, sheet: Sheet) -> Iterator[Text]:
        """The titles, the lower line of each above its figures, and a rule."""
        from rich.text import Text

        titles = [sheet.fields[i].title.split("\n") for i in self.shown]
        lines = max((len(title) for title in titles), default=1)
        for i in range(lines):
            last = i == lines - 1
            cells = [title[i - lines] if len(title) >= lines - i else "" for title in titles]
            yield self._line(sheet.lead if last else "", sheet.name if last else "", cells, "bold")
        yield Text(
            "─" * min(self.whole, self._start() + sum(width + self.gap for width in self.widths) - self.gap)
        )

    def row(self, entry: Entry, console: Console) -> Iterator[Text]:
        """A row in one line; a name that has no room stands above its figures, a remark below them."""
        from rich.cells import cell_len

        cells, name = [entry.cells[i] for i in self.shown], entry.name
        if cell_len(name) > self.name:
            yield from self._folded(entry.lead, name, f"bold {entry.style}", console)
            yield self._line("", "", cells, entry.style)
        else:
            yield self._line(entry.lead, name, cells, entry.style)
        if entry.remark:
            yield from self._folded("", f"  {entry.remark}", "dim", console)

    def _start(self) -> int:
        """Where the first figure may begin."""
        return self._indent() + (self.name + self.gap if self.name else 0)

    def _indent(self) -> int:
        return self.lead + self.gap if self.lead else 0

    def _line(self, lead: str, name: str, cells: Sequence[str], style: str) -> Text:
        from rich.text import Text

        line = Text(style=style)
        if self.lead:
            line.append(_padded(lead, self.lead, right=True) + " " * self.gap)
        if self.name:
            line.append(_padded(name, self.name) + " " * self.gap, style="bold")
        figures = zip(cells, self.widths, self.rights, strict=True)
        line.append((" " * self.gap).join(_padded(cell, width, right) for cell, width, right in figures))
        line.rstrip()
        return line

    def _folded(self, lead: str, text: str, style: str, console: Console) -> Iterator[Text]:
        """Text over the whole width, behind the lead."""
        from rich.text import Text

        room = max(self.whole - self._indent(), 1)
        for place, line in enumerate(Text(text, style=style).wrap(console, room)):
            before = (
                _padded("" if place else lead, self.lead, right=True) + " " * self.gap if self.lead else ""
            )
            line.rstrip()
            yield Text(before).append_text(line)


def _layout(sheet: Sheet, width: int) -> _Layout:
    """The widest choice of fields that leaves the names room."""
    from rich.cells import cell_len

    entries = [entry for section in sheet.sections for entry in section]
    names = [cell_len(text) for text in (sheet.name, *(entry.name for entry in entries))]
    leads = [cell_len(text) for text in (sheet.lead, *(entry.lead for entry in entries))]
    lead = max(2, *leads) if any(leads) else 0
    widths = [
        max(cell_len(text) for text in (*field.title.split("\n"), *(entry.cells[i] for entry in entries)))
        for i, field in enumerate(sheet.fields)
    ]
    shown = list(range(len(sheet.fields)))

    def room() -> int:
        return width - (lead + sheet.gap if lead else 0) - sum(widths[i] + sheet.gap for i in shown)

    while room() < min(max(names), COMFORTABLE) and any(sheet.fields[i].spare for i in shown):
        shown.remove(max(shown, key=lambda i: sheet.fields[i].spare))
    fitting = max(filter(lambda name: name <= room(), names), default=0) if room() >= names[0] else 0
    return _Layout(
        tuple(shown), tuple(widths[i] for i in shown), tuple(sheet.fields[i].right for i in shown),
        lead, fitting, width, sheet.gap,
    )  # fmt: skip


def _padded(text: str, width: int, right: bool = False) -> str:
    from rich.cells import cell_len

    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
