"""Trials of several processes: ranks that behave in every way, and whole trials that are looked at from inside."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dstbench.runner.trial import interruption, loop, running
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.trial import run_trial


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def behave(trial, folder, *, threads, do="succeed", **options):
    """Rank 1 does what ``do`` says; rank 0 waits for it, as it would in a collective."""
    (folder / f"rank {rank()}").write_text(
        json.dumps({name: os.environ[name] for name in NAMES} | {"threads": threads})
    )
    if do == "agree":
        raise ValueError("what every rank says")
    if rank() == 1 and do != "succeed":
        ACTIONS[do]()
    elif do == "be asked":
        _stop_when_asked()
    elif do != "succeed":
        time.sleep(60)
    return {"status": "ok", "measures": {"top1": 50.0 + rank()}}


def by_seed(trial, folder, *, threads, **options):
    """For runs of whole matrices."""
    return behave(trial, folder, threads=threads, do={1: "raise", 2: "kill"}.get(trial.seed, "succeed"))


NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")


def _raise():
    raise RuntimeError("only here")


def _stop_when_asked():
    while not interruption.asked():
        time.sleep(0.01)
    raise interruption.Interrupted


def _ask():
    """The process that watches the ranks, as its supervisor would."""
    os.kill(os.getppid(), interruption.SIGNAL)
    _stop_when_asked()


def _leave_a_child():
    if os.fork() == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "exit 0": lambda: os._exit(0),
    "raise": _raise, "be asked": _ask, "leave a child": _leave_a_child,
}  # fmt: skip


def net() -> nn.Module:
    """Without norms, so that a batch is the sum of its parts."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def observed(trial, folder, *, norm=False, chance=False, do="succeed", **options):
    """A whole trial, without norms unless ``norm``; each rank writes hashes of its masks, after every update."""
    if not norm:
        Blueprint.dense_model = partial(_built, chance)
    if do in SPOILT:
        SPOILT[do]()
    traces: list[dict[str, str]] = []
    original = loop._observe

    def observe(trial: Any) -> None:
        history = trial.sparsifier.history
        if history and history[-1].step == trial.sparsifier.steps:
            traces.append(_hashes(trial.sparsifier.masks))
        original(trial)

    loop._observe = observe
    evaluate = loop.evaluate

    def at_the_end(trial: Any, split: Any) -> Any:
        trace = [*traces, _hashes(trial.sparsifier.masks)]
        weights = _hashes(dict(trial.inner.named_parameters()))
        content = {"masks": trace, "updates": len(trial.sparsifier.history), "weights": weights}
        (Path(folder) / f"masks.{rank()}.json").write_text(json.dumps(content))
        return evaluate(trial, split)

    loop.evaluate = at_the_end
    return run_trial(trial, folder, **options)


def stopped(trial, folder, **options):
    """As ``observed``; rank 1 is asked to stop three times, and each time all ranks go on from where they did."""
    running.MEETING = 0.0
    looks = iter(range(10_000))
    interruption.asked = lambda: rank() == 1 and next(looks) in (2, 6, 7)
    stops = 0
    while True:
        try:
            record = observed(trial, folder, **options)
        except interruption.Interrupted:
            stops += 1
            continue
        (Path(folder) / f"stops.{rank()}").write_text(str(stops))
        return record


def _built(chance: bool, input_shape: Any, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.3), net()) if chance else net()


def _hashes(tensors: Any) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]
        for name, tensor in tensors.items()
    }


def _nan():
    """Rank 1's images are NaN in the fourth step."""
    original, count = loop._batch, iter(range(10_000))

    def batch(running, pair, total):
        images, labels = pair
        spoilt = rank() == 1 and next(count) == 3
        original(running, (images * float("nan") if spoilt else images, labels), total)

    loop._batch = batch


def _differ():
    """Rank 1 ranks the weights of one layer otherwise."""
    from dstbench_plugins.prune.magnitude import Magnitude

    original = Magnitude.__call__

    def score(self, layer, rng):
        found = original(self, layer, rng)
        return found.flatten().flip(0).view_as(found) if rank() == 1 and layer.name == "2" else found

    Magnitude.__call__ = score


SPOILT = {"nan": _nan, "differ": _differ}
