"""A section of the page: what a module that says something about the results as a whole gives the page to show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dstbench.registration.registry import registry
from dstbench.report.apart import ages, apart, mixtures, outdated, renamed
from dstbench.report.evidence.tried import Identified, Tried, identified, named_methods
from dstbench.report.leaderboards import group_of, summary_of, with_versions
from dstbench.report.table_rows import rows_of
from dstbench.results.record import Record
from dstbench.results.table import LoadedResults, frame

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup


@dataclass(frozen=True)
class Material:
    """What a section is made of: the records, a row a trial (``load_results``), and a row a method over seeds."""

    loaded: LoadedResults
    trials: pd.DataFrame
    summary: pd.DataFrame  # as ``summarise`` makes it
    remarks: tuple[str, ...] = ()  # what was kept apart, and what is older than the code

    @cached_property
    def members(self) -> dict[str, list[Record]]:
        """The records behind each row of the summary, by its ``group``; in the order of their keys."""
        groups: dict[str, list[Record]] = {}
        rows = with_versions(rows_of(self.trials[["trial", "versions"]]))
        for record, row in zip(self.loaded.records, rows, strict=True):
            groups.setdefault(group_of(row), []).append(record)
        return groups

    def tried(self, by_name: bool = False) -> list[Tried]:
        """The methods as repetitions: see ``tried_methods``."""
        return named_methods(self._identified, by_name)

    @cached_property
    def _identified(self) -> Identified:
        return identified(self.trials)


def material_of(loaded: LoadedResults) -> Material:
    """Results with their tables: what can't be compared is apart in both."""
    import pandas as pd

    whole = frame(loaded.records, loaded.tiers, loaded.rows)
    rows = rows_of(whole)
    named = apart(rows)
    trials = renamed(whole, rows, named)
    if older := outdated(loaded.records, registry()):
        which = [older.get(str(key)) for key in trials.index]
        trials = trials.assign(outdated=pd.Series(which, trials.index, dtype=object))
        named = [{**trial, "outdated": age} for trial, age in zip(named, which, strict=True)]
    return Material(loaded, trials, summary_of(named), (*mixtures(rows), *ages(older)))


@dataclass(frozen=True)
class Section:
    """One part of the page, below its tables: a heading with an address of its own, and HTML.

    ``data`` is there for the section's script, as ``JSON.parse(document.getElementById("data-NAME").textContent)``;
    ``script`` runs once the page stands, ``style`` is CSS in the page's variables (``page.css``).
    """

    name: str  # letters, digits and hyphens: the section's id, and what the fragment of its address is
    title: str
    html: Markup  # escaped where it came from records: made by ``templates()``, or with ``Markup.format``
    data: Any = None  # JSON values
    script: str = ""
    style: str = ""
    markdown: str = ""  # the same for a Markdown page, from its heading of the second level on
