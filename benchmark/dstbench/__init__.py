"""dstbench: the benchmark for dynamic sparse training. Light: nothing here imports torch until it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dstbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from dstbench.accel.compact import compact as compact
    from dstbench.accel.export import load_export as load_export
    from dstbench.accel.inference import accelerate as accelerate
    from dstbench.accel.throughput import throughput as throughput
    from dstbench.core.cost.cost import cost as cost
    from dstbench.core.cost.training import training_cost as training_cost
    from dstbench.core.training.calibration import Calibration as Calibration
    from dstbench.core.training.densities import densities as densities
    from dstbench.core.training.sparsifier import Sparsifier as Sparsifier
    from dstbench.registration.registry import registry as registry
    from dstbench.report.evidence.effects import effects as effects
    from dstbench.report.evidence.groups import groups as groups
    from dstbench.results.table import load_curves as load_curves
    from dstbench.results.table import load_results as load_results
    from dstbench.runner.execution.run import run as run

__version__ = "0.1.0"

_LAZY = {
    "Sparsifier": "dstbench.core.training.sparsifier",
    "Calibration": "dstbench.core.training.calibration",
    "densities": "dstbench.core.training.densities",
    "cost": "dstbench.core.cost.cost",
    "training_cost": "dstbench.core.cost.training",
    "compact": "dstbench.accel.compact",
    "accelerate": "dstbench.accel.inference",
    "load_export": "dstbench.accel.export",
    "throughput": "dstbench.accel.throughput",
    "registry": "dstbench.registration.registry",
    "run": "dstbench.runner.execution.run",
    "effects": "dstbench.report.evidence.effects",
    "groups": "dstbench.report.evidence.groups",
    "load_results": "dstbench.results.table",
    "load_curves": "dstbench.results.table",
}

__all__ = ["__version__", "hookimpl", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dstbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
