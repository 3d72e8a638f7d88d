"""One trial = one function: build, train, evaluate, and a record of what came out, whatever came out."""

from __future__ import annotations

import json
import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dstbench.api import Files, Infeasible, Split, StrategyError
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.runner.failures import is_out_of_memory
from dstbench.runner.matrix.config import Training
from dstbench.runner.trial import provenance
from dstbench.runner.trial.batches import Batches, evaluation_batches, fingerprint
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.measures import final_measures
from dstbench.runner.trial.optimization import build_optimizer, build_schedule, memory_format
from dstbench.runner.trial.running import CHECKPOINT, CURVE, STATE, RunningTrial


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def run_trial(
    trial: Mapping[str, Any],
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

    ``folder`` gets ``curve.jsonl``, ``state.pt`` and, while training, ``checkpoint/``: a trial that was
    interrupted continues from it. Only KeyboardInterrupt and SystemExit get through.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = registry or default_registry()
    record: dict[str, Any] = {
        "trial": dict(trial),
        "status": "ok",
        "reason": None,
        "phase": None,
        "traceback": None,
    }
    origin: dict[str, Any] = {**provenance.machine(), "started": provenance.now()}
    measures: dict[str, Any] = {}
    source.hook.trial_started(trial=trial)
    phase = "build"
    try:
        if threads:
            torch.set_num_threads(threads)
        origin["components"] = provenance.components(trial, source)
        origin["plugins"] = provenance.plugins(origin["components"])
        session = _build(trial, folder, data_root, download, device, source)
        origin["dataset_fingerprint"] = fingerprint(session.data)
        phase = "train"
        _train(session, checkpoint_seconds)
        phase = "evaluate"
        measures = final_measures(session, *evaluate(session, session.data.test))
        _save(session)
    except Exception as error:  # a failure of any kind is a result
        status = _status(error)
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)  # trying again starts anew
        record |= {
            "status": status,
            "reason": _reason(error),
            "phase": phase,
            "traceback": traceback.format_exc(),
        }
    origin["finished"] = provenance.now()
    record |= {"measures": measures, "provenance": origin}
    source.hook.trial_finished(trial=trial, result=record)
    return record


def _status(error: Exception) -> str:
    if is_out_of_memory(error):
        return "oom"
    if isinstance(error, Infeasible):
        return "skipped"  # what was asked for can't exist: a density that empties a layer, say
    return "diverged" if isinstance(error, Diverged) else "failed"


def _reason(error: Exception) -> str:
    if isinstance(error, Diverged | Infeasible):  # the status says the rest
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _build(
    trial: Mapping[str, Any], folder: Path, root: Path | None, download: bool, device: str, registry: Registry
) -> RunningTrial:
    blueprint = Blueprint.of(trial, registry)
    training = Training(**trial["training"])
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
        seed=trial["seed"],
        device=accelerator.device,
    )
    optimizer = build_optimizer(model, training)
    per_epoch = len(batches) // training.gradient_accumulation
    if per_epoch == 0:
        raise BadInput(
            f"training.gradient_accumulation: {training.gradient_accumulation} is more than the "
            f"{len(batches)} batches of an epoch: no step would be applied"
        )
    example = example_batch(data.input_shape, training, accelerator.device)
    sparsifier = blueprint.sparsifier(model, optimizer, training, per_epoch, example)
    prepared, wrapped = accelerator.prepare(model, optimizer)
    session = RunningTrial(
        trial, folder, data, training, accelerator, prepared, wrapped, sparsifier, batches, meter, registry
    )
    accelerator.register_for_checkpointing(sparsifier, meter, session.progress)
    return session


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


def _train(session: RunningTrial, checkpoint_seconds: float) -> None:
    """All epochs that are left, with a line of the curve after each."""
    training = session.training
    per_epoch = len(session.batches) // training.gradient_accumulation
    # before anything is loaded: the schedule starts from the configured rate, not from where it had got to
    set_rate = build_schedule(session.sparsifier.optimizer, training, per_epoch)
    checkpoint = session.folder / CHECKPOINT
    if checkpoint.exists():
        session.accelerator.load_state(str(checkpoint))
    _cut_curve(session)
    if session.progress.epoch == 0:
        session.progress.exploration.observe(0, session.sparsifier)
    saved = time.monotonic()
    for epoch in range(session.progress.epoch, training.epochs):
        start = time.perf_counter()
        loss = _epoch(session, epoch, set_rate)
        session.progress.seconds += time.perf_counter() - start
        session.progress.epoch = epoch + 1
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1}")
        _log(session, epoch, loss)
        if time.monotonic() - saved >= checkpoint_seconds and epoch + 1 < training.epochs:
            _checkpoint(session)
            saved = time.monotonic()
    shutil.rmtree(checkpoint, ignore_errors=True)


def _epoch(session: RunningTrial, epoch: int, set_rate: Any) -> float:
    """One pass over the training images; returns the mean loss."""
    accelerator, sparsifier, training = session.accelerator, session.sparsifier, session.training
    criterion = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    layout = memory_format(training)
    total = torch.zeros((), device=accelerator.device)
    session.model.train()
    sparsifier.optimizer.zero_grad()
    accelerator.step = 0  # an accumulation doesn't reach over epochs: an epoch is what is checkpointed
    samples, steps = 0, 0
    for images, labels in session.batches.epoch(epoch):
        with accelerator.accumulate(session.model):
            set_rate(sparsifier.steps)
            images = images.contiguous(memory_format=layout)
            with accelerator.autocast():
                loss = criterion(session.model(images), labels)
            accelerator.backward(loss)
            samples += len(labels)
            before, active = sparsifier.steps, sparsifier.active  # an init may decide with the gradients
            if accelerator.sync_gradients and training.clip_norm is not None:
                accelerator.unscale_gradients()
                sparsifier.mask_gradients()  # inactive weights don't count towards the norm
                nn.utils.clip_grad_norm_(session.model.parameters(), training.clip_norm)
            total += loss.detach()
            _step(session, total)
            session.optimizer.zero_grad()
        steps += 1
        if sparsifier.steps > before:
            session.meter.add(active, samples, sparsifier.dense_gradient)
            samples = 0
            _observe(session)
    return float(total) / max(1, steps)


def _step(session: RunningTrial, total: torch.Tensor) -> None:
    """Step and, if due, update the topology. Scores of NaN weights are refused there: that is divergence."""
    try:
        session.optimizer.step()
    except StrategyError as error:
        if not bool(total.isfinite()):
            raise Diverged(f"the training loss is {float(total)}") from error
        raise


def _observe(session: RunningTrial) -> None:
    """Tell observers of an update that the last step made."""
    history = session.sparsifier.history
    if history and history[-1].step == session.sparsifier.steps:
        session.registry.hook.topology_updated(
            trial=session.trial, step=history[-1].step, report=asdict(history[-1])
        )


def _log(session: RunningTrial, epoch: int, loss: float) -> None:
    """Append one line to the curve, with validation accuracy where it is due."""
    last = epoch + 1 == session.training.epochs
    due = len(session.data.validation) > 0 and (last or (epoch + 1) % session.training.eval_every == 0)
    point = session.progress.exploration.observe(epoch + 1, session.sparsifier)
    line = {
        "epoch": epoch + 1,
        "step": session.sparsifier.steps,
        "loss": loss,
        "top1_validation": evaluate(session, session.data.validation)[0] if due else None,
        "density": session.sparsifier.density,
        "r_s": session.sparsifier.r_s,
        **{name: point.get(name) for name in ("never_dropped", "bottom_previous", "channels")},
        "seconds": round(session.progress.seconds, 3),
    }
    with (session.folder / CURVE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _cut_curve(session: RunningTrial) -> None:
    """Drop the lines of epochs that no checkpoint covers: they are run again."""
    curve = session.folder / CURVE
    lines = curve.read_text().splitlines(keepends=True) if curve.exists() else []
    curve.write_text("".join(lines[: session.progress.epoch]))


def _checkpoint(session: RunningTrial) -> None:
    """Save all state, then put it in place of the last one."""
    fresh, final = session.folder / f"{CHECKPOINT}.new", session.folder / CHECKPOINT
    shutil.rmtree(fresh, ignore_errors=True)
    session.accelerator.save_state(str(fresh))
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)


@torch.no_grad()
def evaluate(session: RunningTrial, split: Split | Files) -> tuple[float, float]:
    """Top-1 in percent and mean cross-entropy over a whole split."""
    session.model.eval()
    correct, total = torch.zeros(2, device=session.accelerator.device, dtype=torch.float64)
    for images, labels in evaluation_batches(
        split,
        4 * session.training.batch_size,
        session.data.mean,
        session.data.std,
        session.accelerator.device,
    ):
        images = images.contiguous(memory_format=memory_format(session.training))
        with session.accelerator.autocast():
            logits = session.model(images).float()
        correct += (logits.argmax(1) == labels).sum()
        total += nn.functional.cross_entropy(logits, labels, reduction="sum")
    return 100 * float(correct) / len(split), float(total) / len(split)


def _save(session: RunningTrial) -> None:
    """The finished network: what throughput, export and comparison need. Loads without pickle."""
    inner = session.accelerator.unwrap_model(session.model)
    torch.save(
        {
            "model": {name: value.cpu() for name, value in inner.state_dict().items()},
            "masks": {name: checkpoint.pack(mask) for name, mask in session.sparsifier.masks.items()},
            "sparsifier": session.sparsifier.state_dict(),
            "input_shape": list(session.data.input_shape),
            "num_classes": session.data.num_classes,
        },
        session.folder / STATE,
    )
