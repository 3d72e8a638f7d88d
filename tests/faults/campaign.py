"""A campaign: runs of a few short trials that are killed at random moments and started again until all is done."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from dstbench.results.record import search
from dstbench.runner.execution.lease import look

PATIENCE = 120.0
"""Seconds in which a scheduler has to end or to go on: a deadline, nothing is measured."""


class Campaign:
    """Kills runs of ``argv`` on a results folder, ``width`` of them side by side, or what they started, at most
    ``kills`` times, until ``done`` says that all is."""

    def __init__(
        self,
        argv: list[str],
        results: Path,
        done: Callable[[], bool],
        kills: int = 0,
        seed: int = 0,
        longest: float = 1,
        width: int = 1,
    ) -> None:
        self.argv, self.results, self.done, self.left = argv, results, done, kills
        self.longest, self.width = longest, width
        self.rng = random.Random(seed)
        self.tally: Counter[str] = Counter()

    def run(self) -> None:
        """Until all is done."""
        undisturbed = 0
        while not self.done():
            undisturbed += not self.left
            assert undisturbed < 20, self.results.with_suffix(".log").read_text()[-3000:]
            self._round()

    def _round(self) -> None:
        """Schedulers side by side, each of which is replaced when it is killed, until all ended by themselves."""
        running = [self._start() for _ in range(self.width)]
        try:
            while self.left and running:
                one = self.rng.choice(running)
                self._await(one, lambda one=one: bool(self._trials(one.pid)))
                self._await(one, _after(self.rng.uniform(0, self.longest)))
                if one.poll() is not None or self._kill(one):
                    one.wait(PATIENCE)
                    running.remove(one)
                    if self.left and not self.done():
                        running.append(self._start())
            for one in running:
                one.wait(PATIENCE)
        finally:
            for one in running:
                if one.poll() is None:
                    os.killpg(one.pid, signal.SIGKILL)
                    one.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with self.results.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                self.argv, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _kill(self, scheduler: subprocess.Popen[bytes]) -> bool:
        """Kill something; returns whether the scheduler was in it."""
        trials = self._trials(scheduler.pid)
        kinds = ["group", "scheduler", "terminate", *(2 * ["trial", "supervisor"] if trials else [])]
        kind = self.rng.choice(kinds)
        self.left -= 1
        self.tally[kind] += 1
        if kind in ("trial", "supervisor"):
            supervisor, trial = self.rng.choice(trials)
            try:
                (trial if kind == "trial" else supervisor).kill()
            except psutil.Error:
                self.left += 1  # it had ended
                self.tally[kind] -= 1
            return False
        if kind == "group":
            for supervisor, trial in trials:
                for process in (supervisor, trial):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            os.killpg(scheduler.pid, signal.SIGKILL)
        else:
            scheduler.send_signal(signal.SIGKILL if kind == "scheduler" else signal.SIGTERM)
        return True

    def _trials(self, scheduler: int) -> list[tuple[psutil.Process, psutil.Process]]:
        """The running trials: each one's supervisor and its own process."""
        try:
            servers = psutil.Process(scheduler).children()
            supervisors = [child for server in servers for child in server.children()]
            return [(one, trial) for one in supervisors for trial in one.children()]
        except psutil.Error:
            return []

    def _await(self, scheduler: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while scheduler.poll() is None and not ready():
            assert time.monotonic() < until, "the run stands still"
            time.sleep(0.01)


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def litter(results: Path) -> list[Path]:
    """Checkpoints and half-written files that are left, and leases that anyone would wait for."""
    folders = [path.parent for path in search(results) if isinstance(path, Path)]
    held = [folder for folder in folders if (holder := look(folder)) is not None and not holder.is_lost]
    return [*held, *(path for folder in folders for path in folder.glob("checkpoint*"))]
