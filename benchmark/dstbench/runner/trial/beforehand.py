"""What every trial begins with alike: the server that trials are forked from imports this module, and has it done.

Importing it must never fail, nor touch a GPU: what goes wrong here goes wrong in the trial again, which can say so.
"""

from __future__ import annotations

import contextlib

from dstbench.registration.registry import registry
from dstbench.runner.trial import provenance


def _foresee() -> None:
    """Read what plugins register and which code this is: 50 ms that no trial spends any more."""
    with contextlib.suppress(Exception):
        registry()
    with contextlib.suppress(Exception):
        provenance.software()


_foresee()
