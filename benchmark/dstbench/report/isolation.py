"""One record that can't be shown doesn't stop the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from dstbench.errors import BadInput, fault
from dstbench.results.record import Rejected
from dstbench.results.table import LoadedResults

T = TypeVar("T")


def isolated(loaded: LoadedResults, make: Callable[[LoadedResults], T]) -> tuple[T, LoadedResults]:
    """What ``make``, which changes nothing, makes of results, and what it was made of: where it fails on records
    alone, those are rejected by name, as faults of ours: what is wrong with a record was found when it was read.
    Where it fails on none of them alone, the error is raised; so is BadInput, and what the system refuses (OSError).
    """
    try:
        return make(loaded), loaded
    except (BadInput, OSError):
        raise
    except Exception:
        troubled = {
            record["key"]: trouble
            for record in loaded.records
            if (trouble := _trouble(replace(loaded, records=(record,)), make))
        }
        if not troubled:
            raise
    faults = (Rejected(loaded.paths[key], text, fault=True) for key, text in troubled.items())
    kept = replace(
        loaded,
        records=tuple(record for record in loaded.records if record["key"] not in troubled),
        rejected=(*loaded.rejected, *faults),
    )
    return make(kept), kept


def _trouble(alone: LoadedResults, make: Callable[[LoadedResults], object]) -> str | None:
    try:
        make(alone)
    except (BadInput, OSError):
        raise
    except Exception as error:
        return f"can't be shown: {fault(error)}"
    return None
