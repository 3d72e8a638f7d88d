"""Ray: workers as tasks of a Ray cluster, each of which takes one open trial after another.

Ray places the workers and says which of them died. It is never asked to run one again (``max_retries=0``): a worker
that is lost with its node costs its running trials, whose leases end, and is replaced here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.runner.cluster.follow import Census, follow, open_jobs
from dstbench.runner.cluster.submissions import Submission
from dstbench.runner.execution.descendants import die_with
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.status import ENGINES
from dstbench.runner.execution.worker import Event

_STOPPING = 60.0
"""Seconds that a worker has for its trials' checkpoints once it is told to stop."""


@dataclass(frozen=True)
class Ray:
    """Workers on a Ray cluster, whose nodes see the results folder under the same path. They end with this process.

    Raises BadInput where Ray isn't installed, or no cluster found.
    """

    address: str = "auto"  # of the cluster; "local" starts one on this machine
    gpus: float | None = (
        None  # of a worker, which runs one trial at a time: 0.5 for two on a GPU; None: one if any
    )
    cpus: float = 1.0  # of a worker
    memory_gb: float | None = None  # of a worker, that Ray reckons with
    resources: dict[str, float] = field(default_factory=dict)  # of a worker, as the cluster names its own

    def __post_init__(self) -> None:
        for name in ("gpus", "cpus", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 10**4:
                raise BadInput(f"{name}: expected 0 to 10,000, got {value}")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise BadInput(f"gpus: expected a fraction up to 1 or a whole number, got {self.gpus}")

    def __call__(
        self, order: Order, *, workers: int | None = None, on_event: Callable[[Event], None]
    ) -> None:
        """Carry out an order with ``workers`` workers, by default as many as the cluster has room for."""
        try:
            import ray
        except ImportError as error:
            raise BadInput(
                f"executor ray: expected Ray, as `pip install 'dstbench[ray]'` has it: {error}"
            ) from None
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            self._carry_out(order, workers, on_event, ray)
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        # what Ray would otherwise do in the future: without it a task with no GPU sees none, which is what we want
        local = {"include_dashboard": False} if self.address == "local" else {}
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="warning", **local)
        except ConnectionError as error:
            raise BadInput(f"executor ray: no cluster at address {self.address!r}: {error}") from None

    def _carry_out(
        self, order: Order, number: int | None, on_event: Callable[[Event], None], ray: Any
    ) -> None:
        tasks = _Tasks(self, order.results.resolve(), ray)
        missing = min(number or tasks.room(), len(open_jobs(order)))
        try:
            if missing:
                tasks.start(missing)
            follow(order, tasks, on_event)
        finally:
            tasks.stop()

    def command(self, results: Path) -> list[str]:
        """The command of a worker."""
        return [sys.executable, "-m", "dstbench", "worker", str(results), "--claim", "--workers", "1"]


@dataclass
class _Tasks:
    """Our tasks on a Ray cluster."""

    engine: Ray
    results: Path
    ray: Any
    _running: dict[Any, str] = field(default_factory=dict, init=False)  # reference -> id
    _died: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        cluster = self.ray.cluster_resources()
        engine = self.engine
        self.gpus = float(cluster.get("GPU", 0) > 0) if engine.gpus is None else engine.gpus
        self.resources = {"CPU": engine.cpus, "GPU": self.gpus, **engine.resources}
        memory = {} if engine.memory_gb is None else {"memory": engine.memory_gb * 2**30}
        self._remote = self.ray.remote(
            max_retries=0,
            num_gpus=self.gpus,  # said even where it is 0: Ray then hides the GPUs that others have
            num_cpus=engine.cpus,
            resources=engine.resources or None,
            **memory,
        )(run_worker)
        path = self.results / ENGINES / f"ray-{uuid.uuid4().hex[:8]}.json"
        self._file = Submission(path, "ray", time.time(), socket.gethostname())

    def room(self) -> int:
        """How many workers fit on the cluster as it is."""
        cluster = self.ray.cluster_resources()
        fits = [int(cluster.get(name, 0) / need) for name, need in self.resources.items() if need]
        return max(1, min(fits, default=1))

    def start(self, number: int) -> None:
        """Submit so many workers more; those for which there is no room yet wait."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("DSTBENCH_") or name == "PYTHONPATH"
        }
        logs = self._file.path.with_suffix("")
        logs.mkdir(parents=True, exist_ok=True)
        for _ in range(number):
            name = str(len(self._file.jobs))
            reference = self._remote.remote(
                self.engine.command(self.results), environment, str(logs / f"{name}.log")
            )
            self._running[reference] = name
            self._file.jobs[name] = {"state": "SUBMITTED"}
        self._file.write()

    def census(self) -> Census | None:
        """Take in which workers ended, and how."""
        news: dict[str, dict[str, Any]] = {}
        died = 0
        for reference in self._ended(0.0):
            name = self._running.pop(reference)
            state = self._end(reference)
            died += state != "COMPLETED"
            if state != "COMPLETED":
                self._died.append(f"worker {name}: {state}")
            news[name] = {"state": state, "ended": True}
        self._file.update(news)
        return Census(len(self._running), died)

    def _ended(self, seconds: float) -> list[Any]:
        """Those that ended, once all have or so many seconds are over."""
        if not self._running:
            return []
        ended, _ = self.ray.wait([*self._running], num_returns=len(self._running), timeout=seconds)
        return list(ended)

    def _end(self, reference: Any) -> str:
        try:
            code = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().partition("\n")[0].partition(". ")[0]
            return f"{type(error).__name__}: {said}"
        return "COMPLETED" if code == 0 else f"exit code {code}"

    def last_words(self) -> str:
        """Why the last worker died."""
        return self._died[-1] if self._died else "all ended by themselves"

    def stop(self) -> None:
        """End what waits or runs: a running one is told to have its trials write their checkpoints."""
        for reference in self._running:
            self.ray.cancel(reference)
        self._ended(_STOPPING)
        self._file.update({name: {"state": "CANCELLED", "ended": True} for name in self._running.values()})


def run_worker(command: Sequence[str], environment: Mapping[str, str], log: str) -> int:
    """Run a worker as a process of a Ray task, and return its exit code. It ends with the task: a node that Ray has
    given up must not go on."""
    task = os.getpid()
    with Path(log).open("ab") as output:
        worker = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=lambda: die_with(task),
        )  # fmt: skip
    try:
        return worker.wait()
    except BaseException:  # cancelled
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(_STOPPING)
        finally:
            worker.kill()
        raise
