"""Where a result comes from: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dstbench
from dstbench.registration.registry import Registry
from dstbench.runner.matrix.trial_spec import TrialSpec

_PACKAGES = ("torch", "torchvision", "timm", "accelerate")


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def machine() -> dict[str, Any]:
    """What doesn't change while a process runs."""
    import psutil
    import torch

    return {
        **software(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def software() -> dict[str, Any]:
    """Versions, the commit and the processor's name: known without a look at any GPU."""
    return {
        "dstbench": dstbench.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": processor(),
    }


def components(trial: TrialSpec, registry: Registry) -> dict[str, Any]:
    """Full name, version and distribution of everything a trial names."""
    return {kind: registry.versions(kind, spec) for kind, spec in trial.components.items()}


def plugins(used: Mapping[str, Any]) -> dict[str, str]:
    """{distribution: version} of the components of a trial."""
    return {part["distribution"]: part["distribution_version"] for part in used.values()}


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, with ``+`` if it was changed; None for an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")
