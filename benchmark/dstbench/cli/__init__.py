"""The command line: arguments in, library calls, text out."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from dstbench.cli.app import app
    from dstbench.cli.streams import forgive

    forgive()
    app()
