"""One of several processes that a launcher started: torchrun, or ``accelerate launch -m dstbench run ...``.

Rank 0 plans and schedules as ever, a trial at a time. The others follow: they run their rank of every trial that it
begins, in a process of its own. All meet at the launcher's store, and neither scheduler nor follower takes part in a
training's collectives: what becomes of a trial can't take them with it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from importlib import import_module
from typing import Any

from dstbench.errors import BadInput

_VARIABLE = "DSTBENCH_LAUNCH"
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_HOSTED = "TORCHELASTIC_USE_AGENT_STORE"
_ALSO = ("TORCHELASTIC_", "ACCELERATE_", "GROUP_", "ROLE_")
_TRIAL, _LEFT = "dstbench/trial", "dstbench/left"
_LEAVING = 10.0  # seconds that the others have to hear that all is over
_PATIENCE = timedelta(seconds=600)  # in connecting: the others may still import
_LOOK = 0.2  # seconds between two looks at the store


@dataclass(frozen=True)
class Launch:
    """This process's place among those that were launched, and where they meet."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str
    port: int
    hosted: bool  # whether the launcher keeps the store; else rank 0 does

    @cached_property
    def store(self) -> Any:
        """The store, as a client of it: each process connects for itself."""
        return self._connected(is_master=False)

    def begin(self, trial: Mapping[str, Any]) -> int:
        """Have the others run their rank of a trial, given as plain values; returns its number."""
        number = int(self.store.add(_TRIAL, 1))
        self.store.set(f"{_TRIAL}/{number}", json.dumps(trial))
        return number

    def trials(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What rank 0 begins, each with its number, until it ends."""
        number = 1
        while trial := self._awaited(f"{_TRIAL}/{number}"):
            yield number, trial
            number += 1
        self.store.add(_LEFT, 1)

    def is_last(self, number: int) -> bool:
        """Whether no other trial was begun after this one."""
        return int(self.store.add(_TRIAL, 0)) <= number

    def tell_failure(self, number: int, rank: int, said: Mapping[str, Any]) -> None:
        """Have all know that a rank of a trial failed."""
        self.store.set(f"{_TRIAL}/{number}/{rank}", json.dumps(said))
        self.store.add(f"{_TRIAL}/{number}/failures", 1)

    def failures(self, number: int) -> dict[int, dict[str, Any]]:
        """What was told of a trial, by rank."""
        if int(self.store.add(f"{_TRIAL}/{number}/failures", 0)) == 0:
            return {}
        keys = {rank: f"{_TRIAL}/{number}/{rank}" for rank in range(self.world)}
        return {
            rank: json.loads(self.store.get(key)) for rank, key in keys.items() if self.store.check([key])
        }

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Around all that rank 0 does: the others end with it."""
        server = None if self.hosted else self._connected(is_master=True)
        try:
            yield
        finally:
            self.begin({})
            until = time.monotonic() + _LEAVING
            while server is not None and time.monotonic() < until:  # it ends with this process
                if int(self.store.add(_LEFT, 0)) >= self.world - 1:
                    break
                time.sleep(_LOOK)

    def _connected(self, is_master: bool) -> Any:
        return open_store(self.host, self.port, is_master=is_master)

    def _awaited(self, key: str) -> dict[str, Any]:
        """What is set, however long that takes: the store itself would wait for a limited time, and warn."""
        while not self.store.check([key]):
            time.sleep(_LOOK)
        message: dict[str, Any] = json.loads(self.store.get(key))
        return message


def open_store(host: str, port: int, *, is_master: bool) -> Any:
    """A torch.distributed TCPStore: the store itself, at any free port where ``port`` is 0, or a client of it."""
    distributed: Any = import_module("torch.distributed")
    return distributed.TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=_PATIENCE)


def launched() -> Launch | None:
    """Where this process was launched with others, None where it is alone.

    What says so is taken out of the environment the first time: what this process starts is alone, but for ranks.
    Raises BadInput for half a launcher's environment.
    """
    if _VARIABLE in os.environ:
        return Launch(**json.loads(os.environ[_VARIABLE]))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return None
    if missing := [name for name in _NAMES if name not in os.environ]:
        raise BadInput(f"launcher: RANK and WORLD_SIZE are set, {', '.join(missing)} not: all have to be")
    rank, world, local_rank, local_world, host, port = (os.environ[name] for name in _NAMES)
    hosted = os.environ.get(_HOSTED) == "True"
    launch = Launch(int(rank), int(world), int(local_rank), int(local_world), host, int(port), hosted)
    for name in list(os.environ):
        if name in _NAMES or name.startswith(_ALSO):
            del os.environ[name]
    os.environ[_VARIABLE] = json.dumps(asdict(launch))
    return launch


def is_follower() -> bool:
    """Whether this process was launched with another that does all but run ranks."""
    launch = launched()
    return launch is not None and launch.rank > 0
