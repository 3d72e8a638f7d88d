"""Where an interrupted trial goes on, bit for bit: one file, read without pickle, and the one before it.

What can't be used is set aside by name, and the trial goes on from the other one, or starts anew.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dstbench.core import ranks
from dstbench.errors import BadInput
from dstbench.runner.failures import is_out_of_memory
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.trial import fence, tensor_files
from dstbench.runner.trial.running import CHECKPOINT, CURVE, PREVIOUS, RunningTrial

_VERSION = 2
_ACCELERATE = "checkpoint"
"""Where earlier releases had Accelerate put a folder of pickles, which can't be read without running them."""

_log = logging.getLogger("dstbench.trial")


def save_checkpoint(running: RunningTrial) -> None:
    """Keep all that exact continuation needs, in place of the last checkpoint; that one stays beside it.

    A full disk costs the checkpoint, not the trial: the last one stands, and a warning says so.
    """
    scaler = running.accelerator.scaler
    own = {"random": _random_state(running.accelerator.device), "loss": running.progress.loss}
    every = ranks.gather(own)  # all else is the same on every rank, or rank 0's
    if ranks.rank() != 0:
        return
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
        "ranks": every,
    }
    path = running.folder / CHECKPOINT
    try:
        tensor_files.write(content, path, previous=running.folder / PREVIOUS)
    except OSError as error:
        with contextlib.suppress(OSError):
            tensor_files.fresh(path).unlink(missing_ok=True)
        _log.warning("%s: not written: %s; the one before stands, and the trial goes on", CHECKPOINT, error)


def remove_checkpoint(folder: Path) -> None:
    """The trial is over."""
    fence.check(folder)
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        path.unlink(missing_ok=True)
        tensor_files.fresh(path).unlink(missing_ok=True)


def resumed(build: Callable[[], RunningTrial], folder: Path) -> tuple[RunningTrial, str | None]:
    """A trial where its checkpoint left it, or at its beginning; and why a checkpoint that is there isn't used.

    Ranks go on from the same one: what one of them can't read none does, and rank 0 puts it aside.
    """
    fence.check(folder)
    problems, running = [], build()  # which has ranks meet
    first = ranks.rank() == 0
    if first and (old := folder / _ACCELERATE).exists():
        why = "an earlier release's, which can't be read without running what is in it"
        problems.append(_set_aside(old, why))
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        [there, *_] = ranks.gather(path.exists() or path.is_symlink())
        if not there:
            continue
        try:
            with ranks.together(f"reading {path.name}"):
                _restore(running, tensor_files.read(path))
            break
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if first:
                problems.append(_set_aside(path, str(error).strip() or type(error).__name__))
            running = build()  # part of the checkpoint may be loaded
    else:
        if first:
            (folder / CURVE).write_text("", encoding="utf-8")
        if problems:
            _log.warning("the trial starts anew")
    return running, "; ".join(problems) or None


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
    own = saved["ranks"][ranks.rank()]
    running.progress.loss = own["loss"]
    if ranks.rank() == 0:
        (running.folder / CURVE).write_text(saved["curve"], encoding="utf-8")
    _set_random_state(running.accelerator.device, own["random"])


def _key(running: RunningTrial) -> str:
    blueprint = running.blueprint
    return trial_key(blueprint.trial, blueprint.registry.choose)


def _set_aside(path: Path, reason: str) -> str:
    """Keep a checkpoint that isn't used beside the new ones, and say so."""
    aside = path.with_name(f"{path.name}.{time.time_ns()}.invalid")
    path.rename(aside)
    problem = f"{path.name}: not used, now {aside.name}: {reason}"
    _log.warning("%s", problem)
    return problem


def _random_state(device: torch.device) -> dict[str, Any]:
    """The global generators' states, as plain values. No draw of ours comes from them; a plugin's may."""
    name, words, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(words).tolist(), *rest),
        "torch": torch.get_rng_state().tolist(),
    }
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state().tolist()
    return state


def _set_random_state(device: torch.device, state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if device.type != "cpu" and device.type in state:
        words = torch.tensor(state[device.type], dtype=torch.uint8)
        torch.get_device_module(device).set_rng_state(words)
