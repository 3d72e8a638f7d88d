"""Trackers of Accelerate, by name: what they show is what the curve and the record hold. One that fails is let go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput, nearest

FOLDER = "tracking"
"""In a trial's folder: where trackers that write files write them."""
_log = logging.getLogger("dstbench.trial")


def check_trackers(names: Sequence[str]) -> None:
    """Raise BadInput for a tracker that Accelerate doesn't know, or that isn't installed."""
    if isinstance(names, str):
        raise BadInput(f"trackers: expected a list of names, got {names!r}")
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, there = (
        [str(name) for name in LOGGER_TYPE_TO_CLASS],
        {str(one) for one in get_available_trackers()},
    )
    for name in names:
        if name not in known:
            raise BadInput(f"trackers: unknown {name!r}{nearest(str(name), known)}")
        if name not in there:
            package = "'dstbench[tensorboard]'" if name == "tensorboard" else name.replace("_", "-")
            raise BadInput(f"trackers: {name} isn't installed; `pip install {package}` does that")


class Tracking:
    """The trackers of one trial. What one of them raises is a warning in the trial's log, and the end of that one."""

    def __init__(self, names: Sequence[str], run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """Start them. ``run``: how they call the trial; ``settings``: its configuration."""
        self._trackers: dict[str, Any] = {}
        for name in names:
            self._try(name, lambda name=name: self._start(name, run, folder))  # type: ignore[misc]
        flat = dict(_flat(settings))
        self._each(lambda tracker: tracker.store_init_configuration(flat))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Figures at a step; what is no number is left out."""
        numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
        self._each(lambda tracker: tracker.log(numbers, step=step))

    def finish(self) -> None:
        """The trial is over."""
        self._each(lambda tracker: tracker.finish())

    def _start(self, name: str, run: str, folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        files = {"logging_dir": str(folder / FOLDER)} if kind.requires_logging_directory else {}
        tracker = kind(run, **files)
        tracker.start()
        self._trackers[name] = tracker

    def _each(self, act: Callable[[Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: act(tracker))  # type: ignore[misc]

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._trackers.pop(name, None)
            _log.warning(
                "tracker %s: %s: %s; the trial goes on without it", name, type(error).__name__, error
            )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as one level of plain values, which is what trackers take: ``training.lr``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value if isinstance(value, bool | int | float | str) else str(value)
