"""The command line: arguments in, library calls, text out."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line."""
    from dstbench.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character still sees the others
            stream.reconfigure(errors="replace")
    app()
