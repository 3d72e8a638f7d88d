"""Kernels that are compiled on this machine, for its processor, when they are first needed.

That takes a C++ compiler with OpenMP (``$CXX``, or g++, or clang++) and a few seconds, once: the library is kept
in ``$DSTBENCH_CACHE`` or the user's cache directory, named by its source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["NotCompiled", "load"]

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_TIMEOUT = 300  # seconds


class NotCompiled(Exception):
    """Why a kernel isn't at hand."""


def load(name: str) -> ctypes.CDLL:
    """The kernels of ``name``.cpp beside this file. Raises NotCompiled with the reason.

    torch is to be imported first: what is compiled then shares its OpenMP threads.
    """
    outcome = _outcome(name)
    if isinstance(outcome, NotCompiled):
        raise outcome
    return outcome


@functools.cache
def _outcome(name: str) -> ctypes.CDLL | NotCompiled:
    try:
        return _built(name)
    except NotCompiled as error:
        return error


def _built(name: str) -> ctypes.CDLL:
    source = Path(__file__).with_name(f"{name}.cpp")
    compiler = _compiler()
    features = _run(
        [*compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    )  # the processor's; and a version
    headers = sorted(source.parent.glob(f"{name}*.h"))
    texts = [path.read_bytes() for path in (source, *headers)]
    key = hashlib.sha256(b"\0".join([*texts, features, repr((compiler, _FLAGS)).encode()])).hexdigest()[:16]
    library = _cache() / f"{name}-{key}.so"
    try:
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
                built = Path(scratch) / library.name
                _run([*compiler, *_FLAGS, str(source), "-o", str(built)])
                built.replace(library)  # whole, whoever else compiles it now
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NotCompiled(f"{library}: {error}") from error


def _compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("g++", "clang++"):
        if compiler := shutil.which(name):
            return [compiler]
    raise NotCompiled("no C++ compiler: neither g++ nor clang++ is on the path, and CXX isn't set")


def _cache() -> Path:
    if named := os.environ.get("DSTBENCH_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "dstbench"
    try:
        return Path.home() / ".cache" / "dstbench"
    except RuntimeError as error:  # a user without a passwd entry and without $HOME
        raise NotCompiled(f"no cache directory: {error} Set $DSTBENCH_CACHE") from error


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        raise NotCompiled(
            f"{shlex.join(command)}: {error} {said.decode(errors='replace')[-2000:]}"
        ) from error
