"""A trial of several processes: its ranks started, watched, and ended together.

The process that watches takes part in no collective, so nothing in the training can hold it up. A rank that raises
says so before it ends, and one that dies is seen to; the others, which would wait for it for half an hour, are given
a moment to say what they know, and are ended.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import psutil

from dstbench.runner.execution.allocator import keep_freed
from dstbench.runner.execution.descendants import die_with
from dstbench.runner.execution.launched import Launch, launched, open_store
from dstbench.runner.execution.tasks import load_task, without_main
from dstbench.runner.failures import died, ending, failure
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import fence, interruption

_LOOK = 0.25  # seconds between two looks at what nothing tells of
_GRACE = 1.0  # seconds that ranks have to say something once one has failed
_LONGER = 5.0  # the same where all that is known is that some have lost others
_LOST = re.compile(
    r"onnection (was )?(closed|reset|refused)|by peer|roken pipe|gloo/transport|NCCL|another rank has ended"
)
"""What a rank says that others left alone: no reason, where there is another."""
_STOPPED, _TAKEN = "stopped", "taken"
"""Beside a record's statuses: it stopped where it was asked to; it found that the trial is another process's."""


@dataclass(frozen=True)
class RankedTrial:
    """What every rank of a trial is called with."""

    task: str  # "module:function"
    trial: TrialSpec
    folder: Path
    options: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        options = {
            name: str(value) if isinstance(value, Path) else value for name, value in self.options.items()
        }
        return {"task": self.task, "trial": self.trial.to_json(), "folder": str(self.folder.absolute()),
                "options": options}  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RankedTrial:
        """What ``plain`` gave."""
        options = dict(plain["options"])
        if options.get("data_root"):
            options["data_root"] = Path(options["data_root"])
        return cls(plain["task"], TrialSpec.from_json(plain["trial"]), Path(plain["folder"]), options)


@dataclass(frozen=True)
class _Place:
    """The ranks that run here, and where they meet the others."""

    ranks: Sequence[int]
    world: int
    local_rank: int  # of the first of them
    local_world: int
    host: str
    port: int
    number: int = 0  # of the trial, among those of one store

    @classmethod
    def of(cls, launch: Launch, number: int) -> _Place:
        ranks, local = [launch.rank], (launch.local_rank, launch.local_world)
        return cls(ranks, launch.world, *local, launch.host, launch.port, number)

    def environment(self, rank: int) -> dict[str, str]:
        """What torchrun would set."""
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": str(self.local_rank + self.ranks.index(rank)),
            "LOCAL_WORLD_SIZE": str(self.local_world),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there: nobody is to open one
            "TORCHELASTIC_RESTART_COUNT": str(self.number),  # keys of one trial don't meet those of another
        }


@dataclass
class _Rank:
    """A rank under way."""

    rank: int
    process: BaseProcess
    report: Connection

    def heard(self) -> dict[str, Any] | None:
        """What it said, or how it died; None while it runs."""
        with contextlib.suppress(EOFError, OSError, ValueError):
            if self.report.poll():
                said: dict[str, Any] = json.loads(self.report.recv_bytes())
                return said
        if self.process.exitcode is None:
            return None
        return ending(*died(self.process.exitcode))


@dataclass
class _Heard:
    """What was heard of ranks, in the order in which it was."""

    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: float | None = None  # when the first one was heard to have

    def note(self, rank: int, said: dict[str, Any]) -> bool:
        """Returns whether that is a failure, and news."""
        news = self.said.setdefault(rank, said) is said and said["status"] not in ("ok", _STOPPED)
        if news and self.failed is None:
            self.failed = time.monotonic()
        return news

    @property
    def over(self) -> bool:
        """Whether those that are silent have had their moment."""
        grace = _GRACE if _known(self.said) else _LONGER
        return self.failed is not None and time.monotonic() - self.failed > grace


def run_ranks(trial: RankedTrial, threads: int) -> dict[str, Any]:
    """Run all ranks of a trial on this machine, or rank 0 with those that were launched; returns the trial's record.

    Where a rank failed the record says which and why. Raises Interrupted once all have stopped where they were asked
    to.
    """
    processes = trial.trial.training.processes
    if (launch := launched()) is not None:
        number = launch.begin(trial.plain())
        return _record(trial, _watched(trial, threads, _Place.of(launch, number), launch, _context()))
    context = _context()  # before the store, which has a thread that no fork minds
    store = open_store("127.0.0.1", 0, is_master=True)
    place = _Place(range(processes), processes, 0, processes, "127.0.0.1", store.port)
    return _record(trial, _watched(trial, max(1, threads // processes), place, None, context))


def follow(launch: Launch, threads: int) -> None:
    """Run this process's rank of every trial that rank 0 begins."""
    for number, plain in launch.trials():
        trial = RankedTrial.of(plain)
        with contextlib.suppress(Exception):  # it will be raised again, where it is the trial's
            load_task(trial.task)  # so that it is imported once
        _watched(trial, threads, _Place.of(launch, number), launch, _context())


def _watched(
    trial: RankedTrial, threads: int, place: _Place, launch: Launch | None, context: BaseContext
) -> _Heard:
    """Run the ranks of this place to their ends; returns what was heard, of all where others are elsewhere."""
    heard, running = _Heard(), [_start(trial, rank, threads, place, context) for rank in place.ranks]
    try:
        while running and not heard.over:
            wait([one.process.sentinel for one in running] + [one.report for one in running], _LOOK)
            for one in list(running):
                if (said := one.heard()) is not None:
                    running.remove(one)
                    if heard.note(one.rank, said) and launch is not None:
                        launch.tell_failure(place.number, one.rank, said)
                elif interruption.asked() and one.process.pid is not None:
                    os.kill(one.process.pid, interruption.SIGNAL)
            if launch is not None:
                _hear_others(heard, launch, place.number)
        while launch is not None and heard.failed and not heard.over and launch.rank == 0:
            time.sleep(_LOOK)
            _hear_others(heard, launch, place.number)
    finally:
        for one in running:
            one.process.kill()
            one.process.join()
    return heard


def _hear_others(heard: _Heard, launch: Launch, number: int) -> None:
    """What was told of ranks elsewhere; and that rank 0 has gone on to another trial, which ends this one."""
    for rank, said in launch.failures(number).items():
        heard.note(rank, said)
    if not launch.is_last(number):
        heard.note(0, ending("killed", "rank 0 has ended"))


def _context() -> BaseContext:
    """How to start ranks: as forks of this process, or fresh where its native threads wouldn't survive that."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    native = psutil.Process().num_threads() - threading.active_count()
    return multiprocessing.get_context("spawn" if on_gpu or native > 0 else "fork")


def _start(trial: RankedTrial, rank: int, threads: int, place: _Place, context: Any) -> _Rank:
    heard, said = context.Pipe(duplex=False)
    arguments = (trial, threads, place.environment(rank), said, os.getpid())
    process = context.Process(target=_run_rank, args=arguments, name=f"rank {rank}")
    with said, without_main():
        process.start()
    return _Rank(rank, process, heard)


def _run_rank(
    trial: RankedTrial,
    threads: int,
    environment: Mapping[str, str],
    report: Connection,
    parent: int,
) -> NoReturn:
    """The process of one rank. Like a trial's own, it ends without what an interpreter does at its end."""
    die_with(parent)
    os.environ.update({"OMP_NUM_THREADS": str(trial.trial.training.threads), **environment})
    code = 1
    try:
        interruption.listen()
        keep_freed()
        said = _attempt(trial, threads)
        report.send_bytes(json.dumps(said).encode())
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _attempt(trial: RankedTrial, threads: int) -> dict[str, Any]:
    try:
        return load_task(trial.task)(trial.trial, trial.folder, **trial.options, threads=threads)
    except interruption.Interrupted:
        return {"status": _STOPPED}
    except fence.LeaseLost as error:
        return ending(_TAKEN, str(error))
    except Exception as error:
        return failure(error)


def _record(trial: RankedTrial, heard: _Heard) -> dict[str, Any]:
    """The record of a trial, by what its ranks said."""
    said = heard.said
    if any(end["status"] == _TAKEN for end in said.values()):
        raise fence.LeaseLost
    first = said.get(0, ending("killed", "rank 0 said nothing"))
    if first["status"] == "ok":
        return first
    failed, known = _failed(said), _known(said)
    if not known and any(end["status"] == _STOPPED for end in said.values()):
        raise interruption.Interrupted  # the others heard from it when it had stopped
    rank, cause = _cause(known or failed)
    reason = str(cause["reason"])
    alike = (
        len(failed) == trial.trial.training.processes
        and len({str(f["reason"]) for f in failed.values()}) == 1
    )
    cause = {**cause, "reason": reason if alike else f"rank {rank}: {reason}"}
    if not known:
        cause["status"] = "killed"
    if cause["status"] != "killed":
        _remove_checkpoint(trial.folder)  # trying again starts anew
    return {**first, **{name: cause.get(name) for name in ("status", "reason", "phase", "traceback")}}


def _failed(said: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {rank: end for rank, end in said.items() if end["status"] not in ("ok", _STOPPED)}


def _known(said: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Failures that are a reason."""
    return {rank: end for rank, end in _failed(said).items() if not _LOST.search(str(end["reason"]))}


def _cause(failed: Mapping[int, dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """The first that failed; but divergence, of which the ranks that it didn't begin on say other things."""
    diverged = [(rank, end) for rank, end in failed.items() if end["status"] == "diverged"]
    return (diverged or list(failed.items()))[0]


def _remove_checkpoint(folder: Path) -> None:
    from dstbench.runner.trial.resume import remove_checkpoint

    remove_checkpoint(folder)
