"""``leaderboard``, ``compare`` and ``results``: from results folders to text and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstbench.errors import BadInput, nearest
from dstbench.results.printable import counted
from dstbench.results.tuning import settings_said, tries_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from rich.console import RenderableType

    from dstbench.results.table import LoadedResults

FAULT = 70
"""The exit code where something was left out by an error of ours: that of sysexits.h for one of the software."""
Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

results_app = typer.Typer(
    help="Results folders: merge, validate, show; hand in, verify and publish results.", no_args_is_help=True
)


def leaderboard(
    folders: Folders,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the CSV, Markdown and HTML files go.")
    ] = None,
    board: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which table --json prints: accuracy (by the task's own metric), flops or throughput.",
        ),
    ] = "accuracy",
    verdicts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="What `results verify` found: how far rows were verified; refused ones are left out.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="csv, markdown, json, latex or parquet: print --board in it; with --out, write all boards in it.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Methods to print per model, data set and density; 0: all.")
    ] = 20,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing: say whether the boards in --out are older than this code; exit code 1 where so.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank methods: a table here; with --out also CSV, Markdown and one offline HTML page."""
    from dstbench.report.isolation import isolated
    from dstbench.report.page import boards_of, write_leaderboards
    from dstbench.report.text import by_its_metric, render_text, to_json
    from dstbench.results.table import read

    if check:
        _checked(folders, out, verdicts, format)
        return
    if format is not None:
        _formatted(read(folders, verdicts), format, board, out)
        return
    files: tuple[Path, ...] = ()
    if out is None:
        boards, loaded = isolated(read(folders, verdicts), boards_of)
        tables, beside, said = boards.tables, boards.beside, boards.remarks
        rejected, faults = _lines(loaded.rejected), loaded.faults
    else:
        written = write_leaderboards(folders, out, verdicts)
        tables, beside, files, said = written.tables, written.beside, written.files, written.remarks
        rejected, faults = list(written.rejected), written.faults
    if board not in tables:
        raise BadInput(f"--board: expected a leaderboard's name, got {board!r}{nearest(board, tables)}")
    if as_json:
        typer.echo(to_json(by_its_metric(beside.within(board, tables[board]))))
    else:
        to_terminal(render_text(tables, limit or None, beside))
        for file in files:
            if file.name == "index.html":
                typer.echo(f"Wrote {file} and {len(files) - 1} more files beside it.")
    for line in said:
        typer.secho(f"note: {line}", fg=typer.colors.YELLOW, err=True)
    name_rejected(rejected, faults)


def _checked(folders: list[Path], out: Path | None, verdicts: Path | None, format: str | None) -> None:
    """Whether boards that were written before are still what would be written."""
    from dstbench.report.stale import staleness

    if out is None or format is not None:
        raise BadInput("--check: expected --out, the folder of the boards to check, and no --format")
    age = staleness(folders, out, verdicts)
    for line in age.lines():
        typer.echo(line)
    if not age.is_fresh:
        raise typer.Exit(1)


def _formatted(loaded: LoadedResults, format: str, board: str, out: Path | None) -> None:
    """One board in a format to print, or all of them into a folder."""
    from dstbench.report.formats import board_text, write_boards
    from dstbench.report.isolation import isolated

    if out is None:
        text, loaded = isolated(loaded, lambda kept: board_text(kept, board, format))
        typer.echo(text, nl=False)
    else:
        files, loaded = isolated(loaded, lambda kept: write_boards(kept, out, format))
        typer.echo(f"Wrote {', '.join(str(file) for file in files)}.")
    name_rejected(_lines(loaded.rejected), loaded.faults)


def index(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder of boards, such as leaderboards.", show_default=False),
    ],
) -> None:
    """Write DIR/index.html over all boards in DIR: what each found, every method with its parts and places."""
    from dstbench.registration.registry import registry
    from dstbench.report.index import write_index

    typer.echo(f"Wrote {write_index(folder, registry())}.")


def explore(
    folders: Folders,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the page and the CSV files go.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One table a method, with its layers.")] = False,
    as_json: Json = False,
) -> None:
    """How methods explore: R_s, weights never dropped, sparse and dead channels; with --out plots over time."""
    from dstbench.report.isolation import isolated
    from dstbench.report.text import to_json
    from dstbench.report.trajectories import (
        at_the_end,
        by_layer,
        render_exploration,
        trajectories,
        write_exploration,
    )
    from dstbench.results.table import read

    listed, loaded = isolated(read(folders), trajectories)
    files = [] if out is None else write_exploration(loaded, out)
    if as_json:
        typer.echo(to_json(by_layer(listed) if layers else at_the_end(listed)))
    else:
        to_terminal(render_exploration(listed, layers))
        for file in files[:1]:
            typer.echo(f"Wrote {file} and {len(files) - 1} more files beside it.")
    name_rejected(_lines(loaded.rejected), loaded.faults)


def plots(
    folders: Folders,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.", show_default=False)
    ],
    png: Annotated[bool, typer.Option("--png", help="PNG as well.")] = False,
) -> None:
    """Every plot of the pages as a picture of its own: SVG, and PNG with --png."""
    from dstbench.report.isolation import isolated
    from dstbench.report.plots import write_plots
    from dstbench.results.table import read

    files, loaded = isolated(read(folders), lambda kept: write_plots(kept, out, png))
    typer.echo(f"Wrote {counted(len(files), 'picture')} to {out}.")
    name_rejected(_lines(loaded.rejected), loaded.faults)


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="DIR_A", help="Results to compare with.", show_default=False)
    ],
    after: Annotated[
        Path | None, typer.Argument(metavar="[DIR_B]", help="Results to judge.", show_default=False)
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Twice, without DIR_B: the first method against the second in DIR_A.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Points of a metric in per cent, percent of any other: what counts where fewer than three seeds "
            "give no interval.",
        ),
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Results of DIR_B against those of DIR_A, or one method against another in DIR_A: by the metric, paired by seed,
    with intervals.

    Differences are in the metric's own sense and unit: of a loss, one below 0 is better.

    Each is better, worse, identical, or can't be told; so is every block, and all together. Exit code 1 where
    something got worse in DIR_B, or the first method is worse than the second, in any block or over all; 3 where
    nothing is on both sides; else 0.
    """
    from dstbench.report.compare import compare as compare_results
    from dstbench.report.compare import is_judged, with_blocks
    from dstbench.report.comparison_text import render_comparison
    from dstbench.report.methods import compare_methods, render_methods
    from dstbench.report.text import to_json

    named = methods or []
    if (after is None) != (len(named) == 2) or (after is not None and named):
        raise BadInput(
            "compare: expected two results folders, or one and two methods: `compare DIR_A DIR_B` or "
            f"`compare DIR_A --method A --method B`, got {1 if after is None else 2} and {len(named)} methods"
        )
    table = (
        compare_methods(before, named[0], named[1], tolerance)
        if after is None
        else compare_results(before, after, tolerance)
    )
    if as_json:
        typer.echo(to_json(with_blocks(table)))
    else:
        to_terminal(render_methods(table) if after is None else render_comparison(table))
    name_rejected(table.attrs["rejected"], table.attrs["faults"])
    whole = [row["verdict"] for row in table.attrs["blocks"]]
    if "worse" in (*table["verdict"], *whole):
        raise typer.Exit(1)
    if (after is None and not table["seeds"].any()) or not is_judged(table["verdict"]):
        typer.secho(
            "nothing compared: no trial is on both sides, on the same data, by the same rules", err=True
        )
        raise typer.Exit(3)


@results_app.command("merge")
def merge_results(
    folders: Folders,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the records go.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Copy trials of other results folders into one; what is there already stays as it is."""
    from dstbench.results.merge import merge

    merged = merge(folders, out)
    trouble = [*map(str, merged.conflicts), *map(str, merged.rejected)]
    if as_json:
        content = {"copied": merged.copied, "same": merged.same}
        _json(content | {"conflicts": _lines(merged.conflicts), "rejected": _lines(merged.rejected)})
    else:
        typer.echo(f"{len(merged.copied)} copied to {out}, {len(merged.same)} there already.")
        name_rejected(trouble)
    if trouble:
        raise typer.Exit(1)


@results_app.command()
def validate(folders: Folders, as_json: Json = False) -> None:
    """Check every record: schema, checksum, types. Exit code 1 where one can't be trusted."""
    from dstbench.results.merge import validate as validate_results

    validated = validate_results(folders)
    if as_json:
        counts = {"ok": validated.ok, "statuses": validated.statuses, "tuning": validated.tuning}
        _json(counts | {"rejected": _lines(validated.rejected)})
    else:
        ends = ", ".join(f"{count} {status}" for status, count in validated.statuses.items())
        tuning = f"; {validated.tuning} of them of tuning trials" if validated.tuning else ""
        typer.echo(f"{counted(validated.ok, 'valid record')}{f': {ends}' if ends else ''}{tuning}.")
        name_rejected(_lines(validated.rejected))
    if validated.rejected:
        raise typer.Exit(1)


@results_app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.", show_default=False)],
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A trial's key, or how it begins.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the trials of a results folder, or print one whole record."""
    from dstbench.report.text import render_trials, to_json
    from dstbench.results.table import frame, read

    loaded = read(folder)
    if key is not None:
        every = (*loaded.records, *loaded.tuning)
        matching = [record for record in every if record["key"].startswith(key)]
        if len(matching) != 1:
            keys = ", ".join(record["key"][:16] for record in matching[:5]) or "none"
            raise BadInput(
                f"key: expected the beginning of one trial's key in {folder}, got {key!r}; matching: {keys}"
            )
        _json(matching[0])
        return
    tuning = tuple({**record, "label": _tuning_label(record)} for record in loaded.tuning)
    trials = frame((*loaded.records, *tuning))
    if as_json:
        typer.echo(to_json(trials.drop(columns=["trial", "versions"]).reset_index()))
    else:
        to_terminal(render_trials(trials))
    name_rejected(_lines(loaded.rejected), loaded.faults)


def _tuning_label(record: dict[str, Any]) -> str:
    """What a tuning trial is called beside others."""
    tries = settings_said(tries_of(record))
    return f"tuning {record['label']}{f' ({tries})' if tries else ''}"


def to_terminal(renderable: RenderableType) -> None:
    """To the terminal; 120 columns where there is none, so that what is piped isn't broken at 80."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(renderable)


def _json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))


def _lines(items: Iterable[Any]) -> list[str]:
    return [str(item) for item in items]


def name_rejected(rejected: Iterable[str], faults: Collection[str] = ()) -> None:
    """Name the files that were left out, where they don't disturb what is printed. Ends with FAULT where some are so
    by an error of ours."""
    for line in rejected:
        typer.secho(f"left out: {line}", fg=typer.colors.YELLOW, err=True)
    if faults:
        typer.secho(
            f"left out by an error of dstbench itself: {counted(len(faults), 'record')}; please report it.",
            fg=typer.colors.RED,
            err=True,
        )
        raise typer.Exit(FAULT)
