"""``dstbench published``: figures that were printed elsewhere, with their sources."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Annotated, Any

import typer

from dstbench.cli.tables import print_json, print_rows
from dstbench.errors import BadInput, nearest

COLUMNS = (
    "model",
    "dataset",
    "method",
    "recipe",
    "density",
    "top1",
    "perplexity",
    "bleu",
    "spread",
    "train_flops",
    "infer_flops",
    "source",
)


def published(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Such as resnet50.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Such as imagenet.")] = None,
    method: Annotated[str | None, typer.Option(metavar="TEXT", help="Part of a method's name.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, every field, instead of a table.")
    ] = False,
) -> None:
    """List published figures as printed, then their sources with what is wrong or unsaid there."""
    from dstbench.report.published.figures import METRICS, figures, require_known

    require_known("model", model)
    require_known("dataset", dataset)
    matching = list(figures(model, dataset, method))
    if method and not matching:
        known = {figure.method for _, _, figure in figures(model, dataset)}
        raise BadInput(f"--method: nothing is published here under {method!r}{nearest(method, known)}")
    tables = {name: table for name, table, _ in matching}
    numbers = {name: number for number, name in enumerate(tables, 1)}
    rows: list[dict[str, Any]] = []
    for name, table, figure in matching:
        row = {
            "table": name,
            "model": table.model[0],
            "dataset": table.dataset,
            **figure.model_dump(mode="json"),
        }
        if as_json:
            row |= {
                "footnotes": [table.footnotes[key] for key in figure.footnotes], "notes": table.notes,
                "source": table.source, "address": table.address, "link": table.link, "grade": table.grade,
            }  # fmt: skip
        else:
            letters = dict(zip(table.footnotes, ascii_lowercase, strict=False))
            marks = ",".join(letters[key] for key in figure.footnotes)
            row |= {"spread": figure.spread, "source": f"[{numbers[name]}{marks}]"}
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    unused = {name for name in METRICS if all(row[name] is None for row in rows)}
    print_rows(rows, [column for column in COLUMNS if column not in unused], as_json=False)
    for name, table in tables.items():
        typer.echo(f"\n[{numbers[name]}] {table.source}: {', '.join(table.places)} ({table.grade})")
        for note in table.notes:
            typer.echo(f"    {note}")
        for letter, text in zip(ascii_lowercase, table.footnotes.values(), strict=False):
            typer.echo(f"    {letter}: {text}")
