"""A file server as NFS clients know it: it fails a call, before or after it did it, and tells old news for a while.

Only this process is told so, and only of paths below one folder.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGING = ("mkdir", "rename", "replace", "rmdir", "unlink", "utime", "link")
READING = ("stat", "lstat", "listdir", "scandir", "open")


class Failing:
    """Fails the ``number``-th call on the folder, with ``code``; ``done``: although it did what was asked."""

    def __init__(self, folder: Path, number: int, code: int, done: bool = False) -> None:
        self.folder, self.number, self.code, self.done = str(folder), number, code, done
        self.calls = 0
        self.failed: str | None = None  # what it failed

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def perhaps(*arguments: Any, **options: Any) -> Any:
            if not (arguments and str(arguments[0]).startswith(self.folder)):
                return call(*arguments, **options)
            self.calls += 1
            if self.calls != self.number:
                return call(*arguments, **options)
            self.failed = f"{name} {arguments}"
            if self.done and name in CHANGING:
                call(*arguments, **options)
            raise OSError(self.code, os.strerror(self.code), str(arguments[0]))

        return perhaps


class Late:
    """Answers what a path is from memory for some seconds, unless this process changed its folder meanwhile."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = str(folder), seconds
        self.known: dict[tuple[Any, ...], tuple[float, Any]] = {}

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            finally:
                for path in arguments[:2]:
                    above = Path(str(path)).parent
                    for key in [key for key in self.known if above in (Path(key[1]), Path(key[1]).parent)]:
                        self.known.pop(key, None)

        def remembered(*arguments: Any, **options: Any) -> Any:
            path = str(arguments[0]) if arguments else ""
            if not path.startswith(self.folder):
                return call(*arguments, **options)
            key = (name, path, *arguments[1:], *sorted(options.items()))
            when, answer = self.known.get(key, (float("-inf"), None))
            if time.monotonic() - when > self.seconds:
                try:
                    answer = call(*arguments, **options)
                except OSError as error:
                    answer = error
                self.known[key] = time.monotonic(), answer
            if isinstance(answer, OSError):
                raise type(answer)(answer.errno, answer.strerror, path)
            return answer

        if name in CHANGING or name == "open":
            return changing
        return call if name == "scandir" else remembered


@contextmanager
def serving(server: Failing | Late) -> Iterator[None]:
    """Have this process's calls go by way of it."""
    plain = {name: getattr(os, name) for name in (*CHANGING, *READING)}
    opened = io.open
    try:
        for name, call in plain.items():
            setattr(os, name, server.wrapped(name, call))
        io.open = server.wrapped("open", opened)
        yield
    finally:
        for name, call in plain.items():
            setattr(os, name, call)
        io.open = opened


PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)
