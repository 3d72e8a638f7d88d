"""Measured throughput of a finished trial, side by side with dense in one process."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.accel.fold import fold_norms
from dstbench.accel.inference import Groundwork
from dstbench.accel.throughput import LAYOUTS, Runner, inference_call, race, training_call
from dstbench.core.storage.fastest import MASKED_DENSE, Measurements
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import Registry
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.feeding import laid_out
from dstbench.runner.trial.layer_speeds import LayerSpeeds
from dstbench.runner.trial.optimization import build_optimizer
from dstbench.runner.trial.trained import Trained, load_trained


@dataclass
class Networks:
    """The networks of a trial that are timed at inference, made once for all batches and layouts."""

    trained: Trained
    device: torch.device
    speeds: Measurements = field(default_factory=Measurements)  # of layers, as far as they are known

    @cached_property
    def dense(self) -> nn.Module:
        """The full model, its norms folded as those of the fast paths are."""
        return fold_norms(self.trained.dense().to(self.device))

    @cached_property
    def control(self) -> nn.Module:
        """The trained network of a control that has no masks, likewise."""
        return fold_norms(copy.deepcopy(self.trained.model).to(self.device))

    def fast(self, inputs: Tensor) -> nn.Module:
        """The trained network for batches like this one, on the fastest path that its structure has."""
        if self._groundwork is None:
            trained, masks = self.trained, {n: m.to(self.device) for n, m in self.trained.masks.items()}
            model = copy.deepcopy(trained.model).to(self.device)
            self._groundwork = Groundwork.of(model, masks, trained.structure, inputs)
        return self._groundwork.finish(inputs, self.speeds)

    _groundwork: Groundwork | None = None


@dataclass(frozen=True)
class TimedSetting:
    """What is timed, and how: one batch of inputs in one memory layout, with its targets."""

    trained: Trained
    layout: str  # of throughput.LAYOUTS
    inputs: Tensor
    targets: Tensor
    networks: Networks

    @property
    def trial(self) -> TrialSpec:
        """What was trained, and how it is to be timed."""
        return self.trained.blueprint.trial

    def place(self, model: nn.Module) -> nn.Module:
        """A copy of a model where and as the inputs lie."""
        placed = copy.deepcopy(model).to(self.inputs.device)
        return placed.to(memory_format=LAYOUTS[self.layout])


def measure_throughput(
    trial: TrialSpec,
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    contended: bool = False,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """The ``throughput`` field of a finished trial's record, from the weights and masks in its folder: a training
    step and inference of a batch, and inference of a single input, each as the method really runs it.

    Both sides may lie in memory as suits them: the rival is the faster of the dense layouts.
    ``contended`` says that something else may be running: the figures are then shown but not ranked.
    """
    if threads:
        torch.set_num_threads(threads)
    measure, training = trial.measure, trial.training
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    trained = load_trained(trial, folder, registry)
    size = measure.batch_size or training.batch_size
    inputs, targets = (part.to(where) for part in trained.example(size))
    task, speeds = trained.blueprint.task, LayerSpeeds(torch.get_num_threads())
    networks = Networks(trained, where, speeds)

    def timed(
        sparse: Callable[[TimedSetting], Runner], dense: Callable[[TimedSetting], Runner], size: int
    ) -> dict[str, float | str]:
        settings = [
            TimedSetting(trained, layout, laid_out(inputs[:size], LAYOUTS[layout]), targets[:size], networks)
            for layout in _layouts(trained.model)
        ]
        mine, rivals = [sparse(setting) for setting in settings], [dense(setting) for setting in settings]
        return race(mine, rivals, task.count(targets[:size]), measure.rounds, measure.warmup)

    done = {
        "batch_size": size,
        "precision": {"no": "float32"}.get(training.mixed_precision, training.mixed_precision),
        "threads": torch.get_num_threads(),
        "device": str(where),
        "compile": measure.compile,
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        "rounds": measure.rounds,
        "contended": contended,
        "train": timed(sparse_training, dense_training, size),
        "inference": timed(sparse_inference, dense_inference, size),
        "single": timed(sparse_inference, dense_inference, 1),
    }
    speeds.keep()
    return done


def _layouts(model: nn.Module) -> list[str]:
    """The memory layouts worth trying: they matter to convolutions alone."""
    return [*LAYOUTS] if any(isinstance(m, _ConvNd) for m in model.modules()) else ["contiguous"]


def sparse_training(setting: TimedSetting) -> Runner:
    """A step of the trained network as its storage runs it. Its masks never change: plain steps are compared."""
    trained, training, model = setting.trained, setting.trial.training, setting.place(setting.trained.model)
    per_epoch = trained.sparsifier["total_steps"] // training.epochs
    optimizer = build_optimizer(model, training)
    sparsifier = trained.blueprint.sparsifier(model, optimizer, per_epoch, setting.inputs)
    model.load_state_dict(trained.model.state_dict())
    sparsifier.load_state_dict(trained.sparsifier)  # at its end: no update is due any more
    return _step(setting, model, sparsifier, _path(trained, sparsifier))


def _path(trained: Trained, sparsifier: Sparsifier) -> str:
    """How a network trains: what its layers compute with, but for masked dense."""
    paths = set(sparsifier.arrangement.paths.values()) - {MASKED_DENSE}
    return " + ".join(sorted(paths)) or (MASKED_DENSE if trained.masks else "dense")


def dense_training(setting: TimedSetting) -> Runner:
    """A step of the full model."""
    model = setting.place(setting.trained.dense())
    return _step(setting, model, build_optimizer(model, setting.trial.training), "dense")


def _step(setting: TimedSetting, model: nn.Module, optimizer: Any, path: str) -> Runner:
    task = setting.trained.blueprint.task
    precision, mode = setting.trial.training.mixed_precision, setting.trial.measure.compile
    return Runner(
        training_call(model, optimizer, setting.inputs, setting.targets, precision, mode, task.loss),
        path,
        setting.layout,
    )


def sparse_inference(setting: TimedSetting) -> Runner:
    """One batch through the trained network, on the fastest path that its structure has."""
    if not setting.trained.masks:
        return _forward(setting, setting.networks.control, "dense")
    fast = setting.networks.fast(setting.inputs)
    return _forward(setting, fast, str(fast.execution_path))


def dense_inference(setting: TimedSetting) -> Runner:
    """One batch through the full model, its norms folded as those of the fast paths are."""
    return _forward(setting, setting.networks.dense, "dense")


def _forward(setting: TimedSetting, model: nn.Module, path: str) -> Runner:
    channels_last, precision = setting.layout == "channels_last", setting.trial.training.mixed_precision
    call = inference_call(model, setting.inputs, precision, channels_last, setting.trial.measure.compile)
    return Runner(call, path, setting.layout)
