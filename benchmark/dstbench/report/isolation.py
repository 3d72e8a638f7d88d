"""One record that can't be shown doesn't stop the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dstbench.errors import BadInput
from dstbench.results.record import Rejected
from dstbench.results.table import LoadedResults

T = TypeVar("T")


def isolated(loaded: LoadedResults, make: Callable[[LoadedResults], T]) -> tuple[T, LoadedResults]:
    """What ``make``, which changes nothing, makes of results, and what it was made of: where it fails on records
    alone, those are rejected by name. Where it fails on none of them alone, the error is ours, and is raised.
    """
    try:
        return make(loaded), loaded
    except Exception:
        troubled = {
            record["key"]: trouble
            for record in loaded.records
            if (trouble := _trouble(replace(loaded, records=(record,)), make))
        }
        if not troubled:
            raise
    kept = replace(
        loaded,
        records=tuple(record for record in loaded.records if record["key"] not in troubled),
        rejected=(*loaded.rejected, *(Rejected(loaded.paths[key], text) for key, text in troubled.items())),
    )
    return make(kept), kept


def _trouble(alone: LoadedResults, make: Callable[[LoadedResults], object]) -> str | None:
    try:
        make(alone)
    except BadInput:
        raise
    except Exception as error:
        return f"can't be shown: {type(error).__name__}: {error}"
    return None
