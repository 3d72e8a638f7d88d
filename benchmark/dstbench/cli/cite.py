"""``dstbench cite``: what to cite for a method, and for the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cite(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Recipes, or strategies of any kind.", show_default=False),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", metavar="DIR", help="All methods of these results as well."),
    ] = None,
) -> None:
    """Print BibTeX: of the methods named, with the papers of their parts, and of dstbench."""
    from dstbench.registration.registry import registry
    from dstbench.report.citations import bibliography, of_records
    from dstbench.results.printable import printable

    from_results: list[str] = []
    if results:
        from dstbench.results.table import read

        from_results = of_records(read(results).records, registry())
    typer.echo(printable(bibliography(names or [], registry(), from_results), kept="\n"), nl=False)
