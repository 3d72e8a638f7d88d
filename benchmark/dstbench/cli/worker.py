"""``dstbench worker``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dstbench.cli.eta import seconds_of
from dstbench.cli.run import INTERRUPTED
from dstbench.results.printable import counted

if TYPE_CHECKING:
    from dstbench.runner.execution.claim import Open

LEFT = 75
"""Exit code where something is left open: EX_TEMPFAIL."""
STOPPED = 1
"""Exit code where trials aren't started any more, for another has failed."""


def worker(
    results: Annotated[Path, typer.Argument(help="A results folder in which a suite was planned.")],
    claim: Annotated[
        bool, typer.Option("--claim", help="Run what is open; without it, only say what that is.")
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End within this time, such as 3h50m, 90m or 3600s."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Use so many of the GPUs that are visible; 0: none.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; by default one per GPU, else per core.")
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one of the plans in RESULTS/plans; repeatable."),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            envvar="DSTBENCH_DATA", help="Where data sets are here, if not where the plan has them."
        ),
    ] = None,
) -> None:
    """Take part in what was planned in RESULTS: run what is open, one trial after another, until nothing is.

    Any number of workers on any number of machines share a folder; trials of a machine that is lost are taken over.
    Exit code 0: nothing is left open; 75: it ended before its time was up, and something is; 1: a trial failed, and
    its plan stops there (`--on-error stop`): what is left of it isn't started.
    """
    from dstbench.runner.execution.claim import claim as take_part
    from dstbench.runner.execution.claim import find_open

    seconds = None if until is None else seconds_of("until", until)
    left = find_open(results, plan or ())
    for rejected in left.rejected:
        typer.secho(f"not used: {rejected}", fg=typer.colors.YELLOW, err=True)
    typer.echo(_said(results, left), err=claim)
    if not claim:
        raise typer.Exit(_code(left))
    from dstbench.cli.progress import Progress
    from dstbench.runner.execution.stop import Stop, listening

    stop = Stop(seconds)
    with Progress() as progress, listening(stop):
        progress.expect(len(left.order.train), len(left.order.throughput))
        left = take_part(
            results,
            plans=plan or (),
            workers=workers,
            gpus=gpus,
            data_root=data_root,
            on_event=progress,
            stop=stop,
        )
    if left:
        typer.echo(f"Stopped. What is finished is kept in {results}; the same command continues.", err=True)
    elif left.stopped:
        typer.echo(_said(results, left), err=True)
    raise typer.Exit(INTERRUPTED if left and stop.signal == signal.SIGINT else _code(left))


def _code(left: Open) -> int:
    return LEFT if left else STOPPED if left.stopped else 0


def _said(results: Path, left: Open) -> str:
    stopped = (
        f"; {left.stopped} are not started any more, for a trial of their plan failed" if left.stopped else ""
    )
    if not left:
        return f"{results}: nothing is open{stopped}"
    order, tuning = left.order, sum(job.trial.tunes for job in left.order.train)
    tune = f"{tuning} to tune with, " if tuning else ""
    train = counted(len(order.train) - tuning, "trial")
    return f"{results}: {tune}{train} to train, {len(order.throughput)} to time{stopped}"
