"""``dstbench plan``: what a suite comes to, as data and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dstbench.cli.eta import duration
from dstbench.cli.run import Device, DeviceOption, Json, Out, Settings, Shard, Suite, Workers, Yes
from dstbench.cli.tables import print_json, print_rows
from dstbench.results.printable import counted
from dstbench.runner.matrix.quantities import memory_text

if TYPE_CHECKING:
    from dstbench.runner.matrix.planned import PlannedTrial


def plan(
    suite: Suite,
    settings: Settings = None,
    out: Out = Path("results"),
    workers: Workers = None,
    shard: Shard = None,
    device: DeviceOption = Device.auto,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Say what a suite would run and what it would cost: counts, skips, FLOPs, time, disk. Trains nothing but a
    few steps of each network, to know its pace on this machine."""
    described = describe(suite, settings or (), out, workers, shard, device, yes=yes)
    if as_json:
        print_json(described)
    else:
        print_plan(described)


def describe(
    suite: str,
    settings: Sequence[str],
    out: Path,
    workers: int | None,
    shard: str | None,
    device: Device = Device.auto,
    *,
    yes: bool = False,
) -> dict[str, Any]:
    """Everything that can be said of a suite before it runs, JSON-ready."""
    from dstbench.registration.registry import registry
    from dstbench.runner.execution.ahead import ahead as ahead_of
    from dstbench.runner.execution.ahead import every_trial, settled, share_of
    from dstbench.runner.execution.forecast import forecast
    from dstbench.runner.execution.missing import state_of
    from dstbench.runner.execution.paces import machine_of
    from dstbench.runner.matrix.config import load_matrix
    from dstbench.runner.matrix.outlook import Outlook
    from dstbench.runner.matrix.plan import plan as plan_of

    components = registry()
    planned = share_of(plan_of(load_matrix(suite, settings), components, yes=yes), shard)
    records = {trial.key: state_of(out, trial.key) for trial in every_trial(planned)}
    todo = ahead_of(out, planned, records)
    trials = [settled(out, trial) for trial in planned.trials]
    states = {trial.key: _state(records[trial.key], trial.skip) for trial in (*trials, *planned.tuning)}
    states |= {trial.key: "to run" for trial in todo.due}
    machine = machine_of(workers, device.value, todo.due)
    ahead = forecast(todo.due, todo.timed, Outlook(components), out, machine)
    return {
        "name": planned.matrix.name,
        "summary": planned.matrix.summary,
        "counts": {
            "trials": len(trials),
            "methods": len({trial.label for trial in trials if not trial.control}),
            "controls": sum(trial.control is not None for trial in trials),
            "excluded": planned.excluded,
            "duplicates": planned.duplicates,
            **Counter(states[trial.key] for trial in trials),
            **({"tuning": len(planned.tuning)} if planned.tuning else {}),
        },
        "estimate": {
            "training_macs": ahead.macs,
            "seconds": ahead.wall,
            "training_seconds": ahead.phase("train"),
            "timing_seconds": ahead.phase("throughput"),
            "workers": ahead.workers,
            "basis": ahead.basis,
            "disk_bytes": None if ahead.disk is None else round(ahead.disk),
        },
        "tuning": planned.matrix.tuning,
        "tuning_trials": [_described(trial, states) for trial in planned.tuning],
        "trial_seconds": planned.matrix.budget.trial_seconds,
        "trial_memory": planned.matrix.budget.trial_memory,
        "notes": [*planned.notes, *ahead.notes],
        "trials": [_described(trial, states) for trial in trials],
    }


def _described(trial: PlannedTrial, states: Mapping[str, str]) -> dict[str, Any]:
    """One trial; of one whose settings are still to be chosen, what all its candidates have in common."""
    return {
        "name": trial.label,
        "control": trial.control,
        "model": trial.trial.model["name"],
        "dataset": trial.trial.dataset["name"],
        "density": trial.trial.density,
        "seed": trial.trial.seed,
        "state": states[trial.key],
        "skip": trial.skip,
        "key": trial.key,
        "trial": trial.trial.to_json(),
        **({"settings": dict(trial.settings)} if trial.settings else {}),
        **({"candidates": [trial.key, *(key for key, _ in trial.others)]} if trial.others else {}),
    }


def _state(state: Any, skip: str | None) -> str:
    if skip:
        return "skip"
    if state is None:
        return "to run"
    return str(state["status"]) if isinstance(state, dict) else "invalid"


def print_plan(described: Mapping[str, Any]) -> None:
    """The same as text: a row per model, data set and density."""
    counts = dict(described["counts"])
    summary = f": {described['summary']}" if described["summary"] else ""
    typer.secho(f"{described['name']}{summary}", bold=True)
    typer.echo("")
    print_rows(_settings(described["trials"]), list(_COLUMNS), as_json=False)
    typer.echo("")
    states = {k: v for k, v in counts.items() if k not in ("trials", "methods", "controls", "tuning") and v}
    typer.echo(
        f"trials    {counts['trials']}: {counted(counts['methods'], 'method')}, "
        f"{counted(counts['controls'], 'control trial')}; "
        + ", ".join(f"{number} {state}" for state, number in states.items())
    )
    _print_estimate(described)
    if tries := described["tuning_trials"]:
        ends = Counter(trial["state"] for trial in tries)
        said = ", ".join(f"{number} {state}" for state, number in ends.items())
        typer.echo(f"tuning    {counted(len(tries), 'trial')} first: {said}; {described['tuning']}")
    else:
        typer.echo(f"tuning    {described['tuning']}")
    for reason, number in Counter(t["skip"] for t in described["trials"] if t["skip"]).items():
        typer.echo(f"skip      {number}: {reason}")
    for note in described["notes"]:
        typer.secho(f"note      {note}", fg=typer.colors.YELLOW)


def _print_estimate(described: Mapping[str, Any]) -> None:
    estimate = described["estimate"]
    if estimate["training_macs"] is not None:
        typer.echo(f"compute   {estimate['training_macs']:.3g} multiply-accumulates, executed as dense")
    if estimate["seconds"] is None:
        typer.echo("time      not known: the data set doesn't say its size, or no step could be measured")
    elif estimate["seconds"]:
        typer.echo(
            f"time      about {duration(estimate['seconds'])}: {duration(estimate['training_seconds'])} training "
            f"with {counted(estimate['workers'], 'worker')}, {duration(estimate['timing_seconds'])} timing "
            f"(from {estimate['basis']})"
        )
    time, memory = described["trial_seconds"], described["trial_memory"]
    if limits := [*([duration(time)] if time else ()), *([memory_text(memory)] if memory else ())]:
        typer.echo(f"limit     {' and '.join(limits)} a trial")
    if estimate["disk_bytes"] is not None:
        typer.echo(f"disk      {estimate['disk_bytes'] / 1e6:.3g} MB")


_COLUMNS = ("model", "dataset", "density", "seeds", "methods", "controls", "trials")


def _settings(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for setting in dict.fromkeys((t["model"], t["dataset"], t["density"]) for t in trials):
        here = [t for t in trials if (t["model"], t["dataset"], t["density"]) == setting]
        values = {
            "seeds": len({t["seed"] for t in here}),
            "methods": len({t["name"] for t in here if not t["control"]}),
            "controls": ", ".join(dict.fromkeys(t["control"] for t in here if t["control"])) or None,
            "trials": len(here),
        }
        rows.append({**dict(zip(_COLUMNS, setting, strict=False)), **values})
    return rows
