"""``dstbench status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dstbench.cli.eta import duration
from dstbench.cli.run import Json
from dstbench.cli.tables import print_json
from dstbench.results.labels import value_text
from dstbench.results.printable import counted

_FEW = 10  # open trials, and failed ones, that are named


def status(
    results: Annotated[Path, typer.Argument(help="A results folder.")] = Path("results"),
    as_json: Json = False,
) -> None:
    """Say what runs where, what is open, what is queued, and what failed and why. Reads the folder's files alone, so
    any machine that sees them will do; where SLURM has jobs of it and can be asked, that is done first."""
    from dstbench.runner.cluster.slurm import refresh
    from dstbench.runner.execution.status import status as status_of

    refresh(results)
    found = status_of(results)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Mapping[str, Any]) -> None:
    counts = {name: number for name, number in found["counts"].items() if number and name != "trials"}
    said = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    _lines([f"{found['results']}: {counted(found['counts']['trials'], 'trial')}: {said or 'none'}"])
    if found["running"]:
        typer.echo("")
        _table(found["running"])
    for title, trials in (("open", found["open"]), ("failed", found["failed"])):
        if trials:
            _lines(["", f"{title}:", *(f"  {_line(trial)}" for trial in trials[:_FEW])])
        if len(trials) > _FEW:
            _lines([f"  and {len(trials) - _FEW:,} more (--json lists all)"])
    if found["engines"]:
        _lines(["", *map(_queue, found["engines"])])
    for rejected in found["rejected"]:
        typer.secho(f"not used: {rejected}", fg=typer.colors.YELLOW, err=True)


def _table(running: Sequence[Mapping[str, Any]]) -> None:
    """A row for each trial that runs: on 80 columns its name gives way."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="none")
    table.add_column("running", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("where", "since", "last beat", "epoch"):
        table.add_column(name, no_wrap=True, justify="left" if name == "where" else "right")
    for trial in running:
        where = f"{trial['where']} ({trial['job']})" if trial["job"] else trial["where"]
        beat = f"{'lost: ' if trial['lost'] else ''}{duration(trial['last_beat'])}"
        cells = (_name(trial), where, _since(trial["since"]), beat, _progress(trial))
        table.add_row(*map(escape, cells), style="red" if trial["lost"] else None)
    Console(highlight=False).print(table)


def _progress(trial: Mapping[str, Any]) -> str:
    """``17/100 (3 min left)``: by the pace so far."""
    if trial["phase"] == "throughput":
        return "timing"
    done, seconds = trial["epoch"] or 0, trial["seconds"]
    known = isinstance(seconds, int | float) and done
    left = f" ({duration(seconds / done * (trial['epochs'] - done))} left)" if known else ""
    return f"{done}/{trial['epochs']}{left}"


def _since(text: str | None) -> str:
    """How long ago, as far as this machine's clock can tell."""
    try:
        started = datetime.fromisoformat(text or "")
        return duration(max(0.0, (datetime.now(UTC) - started).total_seconds()))
    except (ValueError, TypeError):
        return "–"


def _name(trial: Mapping[str, Any]) -> str:
    where = [trial["model"], trial["dataset"], f"{trial['density']:g}", f"seed {trial['seed']}"]
    settings = [f"{name}={value_text(value)}" for name, value in trial.get("settings", {}).items()]
    tuning = "tuning " if trial.get("tunes") else ""
    return f"{tuning}{trial['label']} ({', '.join([*where, *settings])})"


def _line(trial: Mapping[str, Any]) -> str:
    if "status" in trial:
        return f"{trial['status']} {_name(trial)}: {trial['reason'] or 'no reason given'}"
    lost = f", lost its worker on {', '.join(trial['lost_on'])}" if trial["lost_on"] else ""
    stopped = ", not started after a failure" if trial["stopped"] else ""
    waits = ", waits for its tuning" if trial["waits"] else ""
    return f"{_name(trial)}{', to time' if trial['phase'] == 'throughput' else ''}{waits}{lost}{stopped}"


def _queue(engine: Mapping[str, Any]) -> str:
    """``queue: slurm: 3 running, 2 pending; scancel 17 ends them``."""
    states = Counter(str(job.get("state") or "submitted").lower() for job in engine["jobs"])
    said = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "no jobs"
    return f"queue: {engine['engine']}: {said}{'; end: ' + engine['cancel'] if engine['cancel'] else ''}"


def _lines(lines: Iterable[str]) -> None:
    from dstbench.results.printable import printable

    for line in lines:
        typer.echo(printable(line))
