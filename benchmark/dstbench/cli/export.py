"""``dstbench export``: a trial's network as a file that runs without us."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dstbench.cli.tables import print_json


def export(
    result: Annotated[
        str,
        typer.Argument(
            metavar="RESULT",
            help="A trial's folder, its result.json, or how its key begins.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="pt2, onnx or safetensors.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; else here, by its key.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where keys are looked up.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a trained network as a PyTorch program, ONNX or sparse weights. Exit code 1 where outputs differ."""
    from dstbench.runner.trial.export import export as write

    done = write(result, format, out, results=results)
    verdict = "same outputs" if done.ok else "OUTPUTS DIFFER"
    if as_json:
        print_json(
            {**asdict(done), "difference": done.difference, "tolerance": done.check.limit, "ok": done.ok}
        )
    else:
        shape = "x".join(map(str, done.outputs))
        typer.echo(f"Wrote {done.file}: {done.format}, {done.path}")
        typer.echo(
            f"{verdict}: {shape}, at most {done.difference:.1e} of the largest apart (limit {done.check.limit:.0e}), "
            f"on made-up inputs: {', '.join(done.check.compared)}"
        )
        typer.echo(
            f"{done.size:,} bytes: {done.size / done.dense_size:.3f}x the dense weights, "
            f"{done.size / done.theoretical_size:.2f}x the theoretical bits"
        )
    if not done.ok:
        raise typer.Exit(1)
