"""Distributions that exist for one test: metadata and a plugin module in a folder put on ``sys.path``."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

_numbers = itertools.count()

HEADER = "from dstbench import hookimpl\n"


def install(
    folder: Path, distribution: str, source: str, *, plugin: str = "plugin", version: str = "1.0"
) -> str:
    """Write a distribution with one plugin and return the name of its module, which no other test has."""
    module = f"{distribution.replace('-', '_')}_{next(_numbers)}"
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    points = info / "entry_points.txt"
    header = points.read_text() if points.exists() else "[dstbench]\n"
    points.write_text(f"{header}{plugin} = {module}\n")
    (folder / f"{module}.py").write_text(HEADER + textwrap.dedent(source))
    return module


def registering(kind: str, *names: str, target: str = "dstbench.api:Random") -> str:
    """Source of a plugin that registers some names of one kind."""
    lines = "".join(f"    register({name!r}, {target!r}, summary='by a test')\n" for name in names)
    return f"@hookimpl\ndef register_{kind}(register):\n{lines}"
