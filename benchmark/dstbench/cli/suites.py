"""``dstbench suites``: what ships, and what each costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dstbench.cli.tables import print_rows

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def suites(as_json: Json = False) -> None:
    """List the suites that ship. `dstbench plan SUITE` says how long one takes on this machine."""
    from dstbench.runner.matrix.config import suites as files

    rows = [suite_row(name, path) for name, path in files().items()]
    if as_json:
        print_rows(rows, [], as_json=True)
        return
    lists = ("models", "datasets", "densities")
    shown = [{**row, **{name: ", ".join(map(str, row[name])) for name in lists}} for row in rows]
    print_rows(shown, ["name", "trials", "epochs", "images_trained_on", *lists], as_json=False)
    typer.echo("")
    for row in rows:
        typer.echo(f"{row['name']}: {row['summary']}")


def suite_row(name: str, path: Path) -> dict[str, Any]:
    """A suite's trials, and the images that all of them train on, epochs counted: its cost beside the models' own.
    Imports no torch."""
    from dstbench.recipe import named
    from dstbench.registration.registry import registry
    from dstbench.runner.matrix.cells import cells
    from dstbench.runner.matrix.config import load_matrix

    matrix = load_matrix(name)
    # dense is one trial at all densities
    trials = {
        repr({**cell.axes, "density": None} if cell.axes.get("recipe") == "dense" else cell.axes): cell
        for cell in cells(matrix)[0]
    }
    sizes = [
        registry().resolve("dataset", named(cell.axes["dataset"])["name"]).metadata.get("train_images", 0)
        for cell in trials.values()
    ]
    return {
        "name": name,
        "trials": len(trials),
        "epochs": matrix.training.epochs,
        "images_trained_on": sum(sizes) * matrix.training.epochs,
        "models": list(dict.fromkeys(named(model)["name"] for model in matrix.axes.model)),
        "datasets": list(dict.fromkeys(named(dataset)["name"] for dataset in matrix.axes.dataset)),
        "densities": list(matrix.axes.density),
        "summary": matrix.summary,
        "file": str(path),
    }
