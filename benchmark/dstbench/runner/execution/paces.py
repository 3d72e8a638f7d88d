"""Paces of networks on this machine: measured as trials will run, side by side, and kept for a day."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench import __version__
from dstbench.results.record import canonical
from dstbench.runner.execution.allocator import keep_freed
from dstbench.runner.execution.local import cores, default_workers, threads_of, visible_gpus
from dstbench.runner.execution.server import LAZY, warm_up, without_main
from dstbench.runner.matrix import cached
from dstbench.runner.matrix.planned import PlannedTrial
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.provenance import processor

if TYPE_CHECKING:
    from dstbench.runner.trial.pace import Pace

_MODULE = "dstbench.runner.trial.pace"
_DAY = 24 * 3600.0  # seconds that a measurement is kept: a machine's load changes
_PATIENCE = 60.0  # seconds after which a network's pace stays unknown
_COPIES = 8  # processes at most that are timed side by side
_SPEED = ("batch_size", "mixed_precision", "channels_last", "storage", "optimizer")


@dataclass(frozen=True)
class Machine:
    """What trials will run on."""

    workers: int  # at a time
    device: str = "auto"  # or "cpu"

    @property
    def gpus(self) -> list[str]:
        """The ids of the GPUs that are used; [] on processors."""
        return [] if self.device == "cpu" else visible_gpus()


def machine_of(workers: int | None, device: str, trials: Iterable[PlannedTrial]) -> Machine:
    """This machine; by default with as many workers as a run of these trials has."""
    threads = max((threads_of(trial.trial.training) for trial in trials), default=1)
    return Machine(workers or default_workers(Machine(1, device).gpus, threads), device)


def network(trial: TrialSpec) -> str:
    """What trials that train at one pace have in common: the network and how a step of it is computed."""
    training = {name: getattr(trial.training, name) for name in _SPEED}
    return canonical([trial.model, training])


def pace_of(
    trial: TrialSpec, shape: Sequence[int], classes: int, machine: Machine, *, alone: bool = False
) -> Pace | None:
    """The pace of a trial beside as many others as run at a time, or ``alone`` with all threads; None: not known.

    Measured in processes of their own, which may crash or hang as they like: the caller never touches a GPU.
    What was disturbed by others (``busy``) isn't kept.
    """
    from dstbench.runner.trial.pace import Pace

    copies = 1 if alone or machine.gpus else min(machine.workers, _COPIES)
    threads = cores() if alone else trial.training.threads
    place = _place([network(trial), list(shape), classes, machine.device, machine.gpus, copies, threads])
    known = _kept(place)
    if known is None:
        measured = _together((trial, tuple(shape), classes, machine.device, threads), copies)
        known = {name: _mean([getattr(pace, name) for pace in measured]) for name in _seconds()}
        if not measured:
            return None
        if any(pace.busy for pace in measured):
            return Pace(**known, busy=True)
        cached.keep(place, known)
    return Pace(**known)


def _seconds() -> list[str]:
    """The fields of a pace that are kept."""
    from dstbench.runner.trial.pace import Pace

    return [f.name for f in fields(Pace) if f.name != "busy"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _together(arguments: tuple[Any, ...], copies: int) -> list[Pace]:
    """Measure in several processes at once; what those that finish in time say."""
    warm_up([_MODULE, *LAZY])
    context = multiprocessing.get_context("forkserver")
    running, said = [], []
    try:
        for _ in range(copies):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_main, args=(theirs, *arguments), daemon=True)
            with without_main():
                process.start()
            theirs.close()
            running.append((process, ours))
        until = time.monotonic() + _PATIENCE
        for _, ours in running:
            with contextlib.suppress(EOFError):  # it crashed
                if ours.poll(max(0.0, until - time.monotonic())):
                    said.append(ours.recv())
    finally:
        for process, _ in running:
            process.kill()
            process.join()
    return said


def _main(
    out: Connection, trial: TrialSpec, shape: tuple[int, int, int], classes: int, device: str, threads: int
) -> None:
    """What the child runs. What it has to say beside the pace, the trial itself will say again."""
    from dstbench.registration.registry import registry
    from dstbench.runner.trial.pace import measure_pace

    keep_freed()  # as a trial does
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (open as long as the process)
    out.send(measure_pace(trial, shape, classes, device=device, threads=threads, registry=registry()))


def _place(kind: Sequence[Any]) -> Path | None:
    """The file of a measurement; None where there is no place for files."""
    machine = [platform.node(), processor(), cores(), os.environ.get("ONEDNN_MAX_CPU_ISA")]
    return cached.place("pace", [*kind, machine, __version__, version("torch")])


def _kept(place: Path | None) -> Mapping[str, Any] | None:
    try:
        if place is None or time.time() - place.stat().st_mtime > _DAY:
            return None
        known: Mapping[str, Any] = cached.recall(place)
        good = known.keys() == set(_seconds())
        return known if good and all(v is None or isinstance(v, float) for v in known.values()) else None
    except (OSError, AttributeError):
        return None
