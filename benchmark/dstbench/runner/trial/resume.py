"""Where an interrupted trial goes on, bit for bit: one file, read without pickle. What can't be used is set aside."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dstbench.errors import BadInput
from dstbench.runner.failures import is_out_of_memory
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.trial import fence, tensor_files
from dstbench.runner.trial.running import CHECKPOINT, CURVE, RunningTrial

_VERSION = 1
_ACCELERATE = "checkpoint"
"""Where earlier releases had Accelerate put a folder of pickles, which can't be read without running them."""

_log = logging.getLogger("dstbench.trial")


def save_checkpoint(running: RunningTrial) -> None:
    """Keep all that exact continuation needs, in place of the last checkpoint."""
    device, scaler = running.accelerator.device, running.accelerator.scaler
    content = {
        "version": _VERSION,
        "trial": _key(running),
        "model": running.inner.state_dict(),
        "optimizer": running.optimizer.state_dict(),
        "scaler": scaler and scaler.state_dict(),
        "sparsifier": running.sparsifier.state_dict(),
        "meter": running.meter.state_dict(),
        "progress": running.progress.state_dict(),
        "curve": (running.folder / CURVE).read_text(encoding="utf-8"),
        "random": _random_state(device),
    }
    tensor_files.write(content, running.folder / CHECKPOINT)


def remove_checkpoint(folder: Path) -> None:
    """The trial is over."""
    fence.check(folder)
    for name in (CHECKPOINT, f"{CHECKPOINT}.new"):
        (folder / name).unlink(missing_ok=True)


def resumed(build: Callable[[], RunningTrial], folder: Path) -> tuple[RunningTrial, str | None]:
    """A trial where its checkpoint left it, or at its beginning; and why a checkpoint that is there isn't used."""
    fence.check(folder)
    problem = None
    if (old := folder / _ACCELERATE).exists():
        problem = _set_aside(old, "an earlier release's, which can't be read without running what is in it")
    running = build()
    path = folder / CHECKPOINT
    if not path.exists() and not path.is_symlink():
        (folder / CURVE).write_text("", encoding="utf-8")
        return running, problem
    try:
        _restore(running, tensor_files.read(path))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        problem = _set_aside(path, str(error).strip() or type(error).__name__)
        running = build()  # part of the checkpoint may be loaded
        (folder / CURVE).write_text("", encoding="utf-8")
    return running, problem


def _restore(running: RunningTrial, saved: dict[str, Any]) -> None:
    """Continue from what ``save_checkpoint`` kept. Raises, with anything loaded by then, where it doesn't fit."""
    if saved.get("version") != _VERSION:
        raise BadInput(f"expected a trial's checkpoint of version {_VERSION}, got {saved.get('version')!r}")
    if saved["trial"] != _key(running):
        raise BadInput(f"it is of another trial: {saved['trial']!r}, here {_key(running)!r}")
    scaler = running.accelerator.scaler
    if (scaler is None) != (saved["scaler"] is None):
        raise BadInput("it was made with a loss scaler, or this is; not both")
    running.inner.load_state_dict(saved["model"])
    running.optimizer.load_state_dict(saved["optimizer"])
    if scaler is not None:
        scaler.load_state_dict(saved["scaler"])
    running.meter.load_state_dict(saved["meter"])
    running.progress.load_state_dict(saved["progress"])
    running.sparsifier.load_state_dict(
        saved["sparsifier"]
    )  # after model and optimizer: it may store them anew
    (running.folder / CURVE).write_text(saved["curve"], encoding="utf-8")
    _set_random_state(running.accelerator.device, saved["random"])


def _key(running: RunningTrial) -> str:
    blueprint = running.blueprint
    return trial_key(blueprint.trial, blueprint.registry.choose)


def _set_aside(path: Path, reason: str) -> str:
    """Keep a checkpoint that isn't used beside the new ones, and say so."""
    aside = path.with_name(f"{path.name}.{time.time_ns()}.invalid")
    path.rename(aside)
    problem = f"{path.name}: not used, now {aside.name}: {reason}"
    _log.warning("%s; the trial starts anew", problem)
    return problem


def _random_state(device: torch.device) -> dict[str, Any]:
    """The global generators' states. No draw of ours comes from them; a plugin's may."""
    name, words, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(words).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def _set_random_state(device: torch.device, state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
