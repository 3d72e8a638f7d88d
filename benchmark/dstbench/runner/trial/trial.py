"""One trial = one function: build, train, evaluate, and a record of what came out, whatever came out."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dstbench.api import Files, Split, StrategyError
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.results.rules import EVALUATION
from dstbench.runner.failures import Diverged, ending, failure
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import provenance, tensor_files
from dstbench.runner.trial.batches import Batches, evaluation_batches, fingerprint, reading_workers
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.measures import final_measures
from dstbench.runner.trial.optimization import build_optimizer, build_schedule, memory_format
from dstbench.runner.trial.resume import remove_checkpoint, resumed, save_checkpoint
from dstbench.runner.trial.running import CURVE, STATE, RunningTrial


def run_trial(
    trial: TrialSpec,
    folder: Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    threads: int | None = None,
    checkpoint_seconds: float = 60.0,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Run one trial and return its record; a failure is a record too, with status, reason, phase and traceback.

    ``folder`` gets ``curve.jsonl``, ``state.pt`` and, while training, ``checkpoint.pt``: a trial that was
    interrupted continues from it, and starts anew if it is damaged or another's. threads: those of the machine
    that are this trial's, by which files are read ahead; no figure depends on it, for what computes are
    ``training.threads``. Only KeyboardInterrupt and SystemExit get through.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = registry or default_registry()
    record = {"trial": trial.to_json(), **ending("ok")}
    origin: dict[str, Any] = {**provenance.machine(), "started": provenance.now()}
    measures: dict[str, Any] = {}
    source.hook.trial_started(trial=record["trial"])
    phase = "build"
    try:
        torch.set_num_threads(trial.training.threads)
        origin["threads"] = torch.get_num_threads()
        origin["components"] = provenance.components(trial, source)
        origin["plugins"] = provenance.plugins(origin["components"])
        blueprint = Blueprint(trial, source)
        running, unused = resumed(
            lambda: build_trial(blueprint, folder, data_root, download, device, threads), folder
        )
        origin |= {"checkpoint": unused} if unused else {}
        origin["dataset_fingerprint"] = fingerprint(running.data)
        origin["evaluation"] = EVALUATION
        phase = "train"
        train(running, checkpoint_seconds)
        phase = "evaluate"
        measures = final_measures(running, *evaluate(running, running.data.test))
        _save(running)
        remove_checkpoint(folder)
    except Exception as error:  # a failure of any kind is a result
        remove_checkpoint(folder)  # trying again starts anew
        record |= failure(error, phase)
    origin["finished"] = provenance.now()
    record |= {"measures": measures, "provenance": origin}
    source.hook.trial_finished(trial=record["trial"], result=record)
    return record


def build_trial(
    blueprint: Blueprint,
    folder: Path,
    root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> RunningTrial:
    """Everything up to the first step."""
    training = blueprint.trial.training
    data = blueprint.data(root, download)
    accelerator = make_accelerator(device, training)
    model = blueprint.model(data.input_shape, data.num_classes)
    meter = TrainingMeter(layer_costs(model, data.input_shape))
    model.to(accelerator.device).to(memory_format=memory_format(training))
    batches = Batches(
        data.train,
        training.batch_size,
        mean=data.mean,
        std=data.std,
        augment=data.augment,
        seed=blueprint.trial.seed,
        device=accelerator.device,
        workers=(readers := None if threads is None else reading_workers(threads)),
    )
    optimizer = build_optimizer(model, training)
    per_epoch = len(batches) // training.gradient_accumulation
    if per_epoch == 0:
        raise BadInput(
            f"training.gradient_accumulation: {training.gradient_accumulation} is more than the "
            f"{len(batches)} batches of an epoch: no step would be applied"
        )
    example = example_batch(data.input_shape, training, accelerator.device)
    sparsifier = blueprint.sparsifier(model, optimizer, per_epoch, example)
    prepared, wrapped = accelerator.prepare(model, optimizer)
    # from the configured rate, before a checkpoint brings the one that it had got to
    set_rate = build_schedule(sparsifier.optimizer, training, per_epoch)
    return RunningTrial(
        blueprint, folder, data, accelerator, prepared, wrapped, sparsifier, batches, meter, set_rate, readers
    )


def example_batch(shape: tuple[int, ...], training: Training, device: torch.device) -> torch.Tensor:
    """A batch of noise like those to come; no draw from the global generator."""
    noise = torch.randn(training.batch_size, *shape, generator=torch.Generator().manual_seed(0))
    return noise.to(device).contiguous(memory_format=memory_format(training))


def make_accelerator(device: str, training: Training) -> Accelerator:
    """An Accelerator of this trial's precision, also where this process already had another one."""
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != training.mixed_precision:
        AcceleratorState._reset_state()  # private, and the only way: a second precision raises otherwise
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=training.mixed_precision,
        gradient_accumulation_steps=training.gradient_accumulation,
    )
    if accelerator.num_processes > 1:
        raise BadInput(
            f"a trial runs in one process, and this is one of {accelerator.num_processes}: run trials side by "
            "side instead (--workers, --shard); the Sparsifier itself does distributed training"
        )
    return accelerator


def train(running: RunningTrial, checkpoint_seconds: float) -> None:
    """All epochs that are left, with a line of the curve after each; or as far as the trial's last step."""
    training = running.training
    if running.progress.epoch == 0:
        running.progress.exploration.observe(0, running.sparsifier)
        running.progress.course.begin(running.sparsifier)
    saved = time.monotonic()
    for epoch in range(running.progress.epoch, training.epochs):
        start = time.perf_counter()
        loss = _epoch(running, epoch)
        running.progress.seconds += time.perf_counter() - start
        running.progress.epoch = epoch + 1
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1}")
        if running.last_step is not None and running.sparsifier.steps >= running.last_step:
            return
        _log(running, epoch, loss)
        if time.monotonic() - saved >= checkpoint_seconds and epoch + 1 < training.epochs:
            save_checkpoint(running)
            saved = time.monotonic()


def _epoch(running: RunningTrial, epoch: int) -> float:
    """One pass over the training images; returns the mean loss."""
    accelerator, sparsifier, training = running.accelerator, running.sparsifier, running.training
    criterion = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    layout = memory_format(training)
    total = torch.zeros((), device=accelerator.device)
    running.model.train()
    sparsifier.optimizer.zero_grad()
    accelerator.step = 0  # an accumulation doesn't reach over epochs: an epoch is what is checkpointed
    samples, steps = 0, 0
    for images, labels in running.batches.epoch(epoch):
        with accelerator.accumulate(running.model):
            running.set_rate(sparsifier.steps)
            images = images.contiguous(memory_format=layout)
            with accelerator.autocast():
                loss = criterion(running.model(images), labels)
            accelerator.backward(loss)
            samples += len(labels)
            before, active = sparsifier.steps, sparsifier.active  # an init may decide with the gradients
            if accelerator.sync_gradients and training.clip_norm is not None:
                _clip(running, training.clip_norm)
            total += loss.detach()
            _step(running, total)
            running.optimizer.zero_grad()
        steps += 1
        if sparsifier.steps > before:
            running.meter.add(active, samples, sparsifier.dense_gradient)
            samples = 0
            _observe(running)
            running.progress.course.observe(sparsifier, loss.detach())
            if sparsifier.steps == running.last_step:
                break
    return float(total) / max(1, steps)


def _clip(running: RunningTrial, norm: float) -> None:
    """Bound the gradients' norm, towards which inactive weights don't count."""
    running.accelerator.unscale_gradients()
    running.sparsifier.mask_gradients()
    nn.utils.clip_grad_norm_(running.model.parameters(), norm)


def _step(running: RunningTrial, total: torch.Tensor) -> None:
    """Step and, if due, update the topology. Scores of NaN weights are refused there: that is divergence."""
    try:
        running.optimizer.step()
    except StrategyError as error:
        if not bool(total.isfinite()):
            raise Diverged(f"the training loss is {float(total)}") from error
        raise


def _observe(running: RunningTrial) -> None:
    """Tell observers of an update that the last step made."""
    history = running.sparsifier.history
    if history and history[-1].step == running.sparsifier.steps:
        running.blueprint.registry.hook.topology_updated(
            trial=running.blueprint.trial.to_json(), step=history[-1].step, report=asdict(history[-1])
        )


def _log(running: RunningTrial, epoch: int, loss: float) -> None:
    """Append one line to the curve, with validation accuracy where it is due."""
    last = epoch + 1 == running.training.epochs
    due = len(running.data.validation) > 0 and (last or (epoch + 1) % running.training.eval_every == 0)
    running.progress.top1_validation = evaluate(running, running.data.validation)[0] if due else None
    point = running.progress.exploration.observe(epoch + 1, running.sparsifier)
    line = {
        "epoch": epoch + 1,
        "step": running.sparsifier.steps,
        "loss": loss,
        "top1_validation": running.progress.top1_validation,
        "density": running.sparsifier.density,
        "r_s": running.sparsifier.r_s,
        **{name: point.get(name) for name in ("never_dropped", "bottom_previous", "channels")},
        "seconds": round(running.progress.seconds, 3),
    }
    with (running.folder / CURVE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@torch.no_grad()
def evaluate(running: RunningTrial, split: Split | Files) -> tuple[float, float]:
    """Top-1 in percent and mean cross-entropy over a whole split."""
    running.model.eval()
    correct, total = torch.zeros(2, device=running.accelerator.device, dtype=torch.float64)
    for images, labels in evaluation_batches(
        split,
        4 * running.training.batch_size,
        running.data.mean,
        running.data.std,
        running.accelerator.device,
        running.readers,
    ):
        images = images.contiguous(memory_format=memory_format(running.training))
        with running.accelerator.autocast():
            logits = running.model(images).float()
        correct += (logits.argmax(1) == labels).sum()
        total += nn.functional.cross_entropy(logits, labels, reduction="sum")
    return 100 * float(correct) / len(split), float(total) / len(split)


def _save(running: RunningTrial) -> None:
    """The finished network: what throughput, export and comparison need. Loads without pickle."""
    content = {
        "model": {name: value.cpu() for name, value in running.inner.state_dict().items()},
        "masks": {name: checkpoint.pack(mask) for name, mask in running.sparsifier.masks.items()},
        "sparsifier": running.sparsifier.state_dict(),
        "input_shape": list(running.data.input_shape),
        "num_classes": running.data.num_classes,
    }
    tensor_files.write(content, running.folder / STATE)
