"""``dstbench suites``: what ships, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
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
    print_rows(shown, ["name", "trials", "epochs", "entries_trained_on", *lists], as_json=False)
    typer.echo("\nan entry: an image, a window of a text, or what else a batch is made of\n")
    for row in rows:
        typer.echo(f"{row['name']}: {row['summary']}")


def entries(dataset: Mapping[str, Any], metadata: Mapping[str, Any]) -> int:
    """How many entries an epoch of a data set has at these parameters, by what it is registered with: 0 where that
    isn't known."""
    if (said := dataset.get(metadata.get("epoch", ""))) is not None:
        return int(said)
    train, held = metadata.get("train_images", 0), metadata.get("validation_images", 0)
    validation = dataset.get("validation", held)
    whole = validation == 0 or validation >= 1  # else a share of what the data alone tell
    return int(train + held - validation) if held and whole else int(train)


def suite_row(name: str, path: Path) -> dict[str, Any]:
    """A suite's trials, and the entries that all of them train on, epochs counted: its cost beside the models' own.
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
        entries(spec := named(cell.axes["dataset"]), registry().resolve("dataset", spec["name"]).metadata)
        for cell in trials.values()
    ]
    return {
        "name": name,
        "trials": len(trials),
        "epochs": matrix.training.epochs,
        "entries_trained_on": sum(sizes) * matrix.training.epochs,
        "models": list(dict.fromkeys(named(model)["name"] for model in matrix.axes.model)),
        "datasets": list(dict.fromkeys(named(dataset)["name"] for dataset in matrix.axes.dataset)),
        "densities": list(matrix.axes.density),
        "summary": matrix.summary,
        "file": str(path),
    }
