"""``dstbench run``."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstbench.results.printable import counted

if TYPE_CHECKING:
    from dstbench.report.page import Written
    from dstbench.runner.execution.forecast import Forecast
    from dstbench.runner.execution.run import Run
    from dstbench.runner.matrix.planned import Plan

INTERRUPTED = 130
_FILE_WIDTH = 130  # columns of a leaderboard that goes to a file or a pipe


class Device(StrEnum):
    """Where trials run."""

    auto = "auto"
    cpu = "cpu"


class ErrorChoice(StrEnum):
    """What becomes of the others when a trial fails."""

    go_on = "continue"
    stop = "stop"


def _suites() -> list[str]:
    """The names of the suites that ship; without what reading one of them needs, for help is fast."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "suites").glob("*.yaml"))


Suite = Annotated[
    str,
    typer.Argument(
        metavar="SUITE_OR_FILE",
        help=f"A suite ({', '.join(_suites())}; see `dstbench suites`), or a YAML or TOML file.",
        autocompletion=_suites,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-S",
        metavar="AXIS=VALUE",
        help="Replace an axis (grow=random,gradient), or set a parameter (schedule.delta_t=5, "
        "training.epochs=3); beside recipes a strategy changes that piece of them (recipe=rigl, then "
        "grow=momentum); repeatable.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The results folder: one folder a trial.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Trials at a time; by default one per GPU, else per core.")
]
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="Only this share of the trials, such as 1/4.")]
DataRoot = Annotated[Path | None, typer.Option(envvar="DSTBENCH_DATA", help="Where data sets are.")]
CheckpointMinutes = Annotated[
    float,
    typer.Option(
        min=0, help="A trial's checkpoints are so far apart; 0: none, but where it is asked to stop."
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: a GPU where there is one.")]
Yes = Annotated[
    bool, typer.Option("--yes", help="Also where there are more than 10,000 combinations to go through.")
]
TrialTime = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Wall clock after which a trial is stopped, such as 2h or 3h50m; else `budget.trial_seconds`.",
    ),
]
TrialMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory of the host that the processes of a trial may hold, such as 8G; else `budget.trial_memory`.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def run(
    suite: Suite,
    settings: Settings = None,
    out: Out = Path("results"),
    workers: Workers = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="What runs the trials: local, slurm, ray, or a plugin's; by default the matrix's, else local."
        ),
    ] = None,
    executor_options: Annotated[
        list[str] | None,
        typer.Option(
            "--executor-option",
            "-E",
            metavar="NAME=VALUE",
            help="A parameter of the executor, such as partition=gpu or time=4h; repeatable. "
            "`dstbench plugins show executor slurm` lists them.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit to a cluster, and don't wait for the end.")
    ] = False,
    retry: Annotated[
        str,
        typer.Option(
            metavar="STATUS,...",
            help="Run trials again that ended so: failed, oom, timeout, diverged, killed, skipped; "
            "invalid: those whose result file can't be trusted, which is kept beside the new one; "
            "contended: only the timing, where something else was running.",
        ),
    ] = "",
    trial_time: TrialTime = None,
    trial_memory: TrialMemory = None,
    shard: Shard = None,
    data_root: DataRoot = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch missing data into --data-root.")
    ] = False,
    device: DeviceOption = Device.auto,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    on_error: Annotated[
        ErrorChoice | None,
        typer.Option(
            help="stop: start no more trials, on any machine, after the first that fails; those that run go on. "
            "By default as the matrix says, else continue."
        ),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tracker of Accelerate, such as tensorboard; repeatable."),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Run what is missing of a suite, and print the leaderboard. Run it again to continue."""
    from dstbench.cli.progress import Progress
    from dstbench.results.record import remembering
    from dstbench.runner.execution.launched import is_follower
    from dstbench.runner.execution.run import run as run_suite

    def planned(plan: Plan, train: int, throughput: int) -> None:
        progress.plan(plan, train, throughput, _forecast(plan, out, workers, wanted, device))

    wanted = _executor(executor, executor_options or (), detach)

    # a cluster's end of time (SIGTERM, or SIGUSR2 ahead of it) is an interruption like Ctrl-C
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with remembering():
            with Progress() as progress:
                done = run_suite(
                    suite,
                    out,
                    settings=[*(settings or ()), *_limits(trial_time, trial_memory)],
                    workers=workers,
                    executor=wanted,
                    retry=_split(retry),
                    shard=shard,
                    data_root=data_root,
                    download=download,
                    device=device.value,
                    checkpoint_minutes=checkpoint_minutes,
                    progress=progress,
                    planned=planned,
                    yes=yes,
                    on_error=None
                    if on_error is None
                    else "stop"
                    if on_error == ErrorChoice.stop
                    else "continue",
                    trackers=tracker or (),
                )
            if is_follower():
                raise typer.Exit
            if done.left is not None:
                typer.echo(f"{done.left}\n`dstbench status {out}` says how far they are.", err=True)
                raise typer.Exit
            _report(done, as_json=as_json)
    except KeyboardInterrupt as interrupt:
        typer.echo(f"\nStopped. What is finished is kept in {out}; the same command continues.", err=True)
        if str(interrupt):
            typer.echo(str(interrupt), err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    raise typer.Exit(0 if done.ok else 1)


def _executor(name: str | None, options: Iterable[str], detach: bool) -> dict[str, Any]:
    """What the command line says of the executor; an option that is there more than once is a list."""
    from dstbench.errors import BadInput
    from dstbench.runner.matrix.yaml import parse_yaml

    said: dict[str, list[Any]] = {}
    for text in options:
        option, equals, written = text.partition("=")
        if not equals or not option.strip() or option.strip() == "name":
            raise BadInput(f"-E {text}: expected a parameter of the executor, such as partition=gpu")
        said.setdefault(option.strip(), []).append(parse_yaml(written, f"-E {text}"))
    given = {option: values[0] if len(values) == 1 else values for option, values in said.items()}
    return {**({"name": name} if name else {}), **given, **({"detach": True} if detach else {})}


def _limits(trial_time: str | None, trial_memory: str | None) -> list[str]:
    """The limits of the command line, as settings of the matrix."""
    given = {"trial_seconds": trial_time, "trial_memory": trial_memory}
    return [f"budget.{name}={value}" for name, value in given.items() if value is not None]


def _forecast(
    plan: Plan, out: Path, workers: int | None, executor: dict[str, Any], device: Device
) -> Forecast | None:
    """What is ahead; None where that is another machine's time."""
    from dstbench.registration.registry import registry
    from dstbench.runner.execution.forecast import forecast
    from dstbench.runner.execution.paces import machine_of
    from dstbench.runner.matrix.config import executor_of
    from dstbench.runner.matrix.outlook import Outlook

    if executor_of(plan.matrix, executor)["name"] != "local":
        return None
    machine = machine_of(workers, device.value, plan.due)
    return forecast(plan.due, plan.timed, Outlook(registry()), out, machine)


def _split(text: str) -> Iterable[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _report(done: Run, *, as_json: bool) -> None:
    """Write the leaderboards, print the first, and say where everything is."""
    from dstbench.cli.report import name_rejected
    from dstbench.report.page import write_leaderboards

    for rejected in done.rejected:
        typer.secho(f"not used: {rejected}", fg=typer.colors.YELLOW, err=True)
    if done.rejected:
        typer.echo("Their trials did not run; `--retry invalid` runs them and keeps the old files.", err=True)
    if not done.out.is_dir():
        return
    written = write_leaderboards([done.out], done.out / "leaderboards")
    if as_json:
        from dstbench.report.text import by_its_metric, to_json

        typer.echo(to_json(by_its_metric(written.beside.within("accuracy", written.tables["accuracy"]))))
    else:
        _print(written)
    counts = ", ".join(f"{number} {status}" for status, number in done.counts.items())
    if done.tuning:
        ends = ", ".join(
            f"{number} {status}" for status, number in sorted(Counter(done.tuning.values()).items())
        )
        typer.echo(f"{len(done.tuning)} tuning trials, on validation data: {ends}", err=True)
    typer.echo(
        f"{counted(len(done.statuses), 'trial')}: {counts} ({done.ran} trained and {done.timed} timed now, "
        f"in {done.seconds:.0f} s)",
        err=True,
    )
    typer.echo(f"results: {done.out}   leaderboards: {done.out / 'leaderboards' / 'index.html'}", err=True)
    name_rejected(written.faults, written.faults)


def _print(written: Written) -> None:
    from rich.console import Console

    from dstbench.report.text import render_text

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(render_text(written.tables, beside=written.beside))
