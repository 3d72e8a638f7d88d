"""The training loop of a trial: epochs of steps, evaluations, the lines of the curve, and where it can stop."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch import Tensor, nn

from dstbench.api import Batch, StrategyError
from dstbench.core import ranks
from dstbench.results.storage import append_line
from dstbench.runner.failures import Diverged
from dstbench.runner.trial import fence, interruption
from dstbench.runner.trial.feeding import AnySplit, evaluated_batches, laid_out
from dstbench.runner.trial.measures import validation_key
from dstbench.runner.trial.optimization import memory_format
from dstbench.runner.trial.resume import save_checkpoint
from dstbench.runner.trial.running import CURVE, RunningTrial


def train(running: RunningTrial) -> None:
    """All that is left of the training, with a line of the curve after each epoch; or as far as its last step."""
    progress = running.progress
    if running.sparsifier.steps == progress.epoch == progress.batches == 0:
        progress.exploration.observe(0, running.sparsifier)
        progress.course.begin(running.sparsifier)
    for epoch in range(progress.epoch, running.training.epochs):
        loss = _epoch(running, epoch)
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {epoch + 1}")
        if running.last_step is not None and running.sparsifier.steps >= running.last_step:
            return
        _log(running, epoch, loss)
        progress.next_epoch()


def _epoch(running: RunningTrial, epoch: int) -> float:
    """What is left of one epoch of training; returns the mean loss of all of it."""
    progress, accelerator = running.progress, running.accelerator
    total = torch.tensor(progress.loss, device=accelerator.device)
    running.model.train()
    running.sparsifier.optimizer.zero_grad()
    accelerator.step = 0  # an accumulation doesn't reach over epochs, nor over checkpoints
    running.watch.start()
    for batch in running.batches.epoch(epoch, progress.batches):
        _batch(running, batch, total)
        progress.batches += 1
        if running.sparsifier.steps == running.last_step:
            break
        if accelerator.sync_gradients:
            pause(running, total)
    progress.seconds += running.watch.stop()
    progress.loss = float(total)
    return float(ranks.add_up(total)) / ranks.world() / max(1, progress.batches)


def _batch(running: RunningTrial, batch: Batch, total: Tensor) -> None:
    """Forward and backward of one batch, whose loss is added to ``total``, and the step that it may end."""
    accelerator, sparsifier, training = running.accelerator, running.sparsifier, running.training
    inputs, targets = batch
    smoothing = {"label_smoothing": training.label_smoothing} if running.task.smooths else {}
    # where each batch ends in a step there is nothing to decide, unless an earlier trial of this process left it so
    several = training.gradient_accumulation > 1 or not accelerator.sync_gradients
    with accelerator.accumulate(running.model) if several else nullcontext():
        running.set_rate(sparsifier.steps)
        inputs = laid_out(inputs, memory_format(training))
        with accelerator.autocast(), running.norms:
            loss = running.task.loss(running.model(inputs), targets, **smoothing)
        accelerator.backward(loss)
        running.progress.samples += len(inputs) * ranks.world()
        before, active = sparsifier.steps, sparsifier.active  # an init may decide with the gradients
        trained = sparsifier.trained
        if accelerator.sync_gradients and training.clip_norm is not None:
            _clip(running, training.clip_norm)
        total += loss.detach()
        _step(running, total)
        if (
            accelerator.sync_gradients
        ):  # as Accelerate's optimizer does, after 0.1 ms of looking at the signature
            sparsifier.optimizer.zero_grad()
    if sparsifier.steps > before:
        running.meter.add(active, running.progress.samples, sparsifier.dense_gradient, trained)
        running.progress.samples = 0
        _observe(running)
        running.progress.course.observe(sparsifier, loss.detach())


def pause(running: RunningTrial, total: Tensor | None = None, *, by_clock: bool = True) -> None:
    """Write a checkpoint where one is due or asked for; raises Interrupted where the trial is asked to stop.

    total: the loss of the epoch so far, while that is trained.
    """
    asked = interruption.asked()
    due = False
    if by_clock:
        asked, due = running.pauses.look(asked)
    if not asked and not due:
        return
    running.progress.seconds += running.watch.stop()
    if total is not None:
        running.progress.loss = float(total)
    save_checkpoint(running)
    running.pauses.made()
    if asked:
        raise interruption.Interrupted
    running.watch.start()


def _clip(running: RunningTrial, norm: float) -> None:
    """Bound the gradients' norm, towards which inactive weights don't count."""
    running.accelerator.unscale_gradients()
    running.sparsifier.mask_gradients()
    nn.utils.clip_grad_norm_(running.model.parameters(), norm)


def _step(running: RunningTrial, total: Tensor) -> None:
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
    if ranks.rank() == 0 and history and history[-1].step == running.sparsifier.steps:
        running.blueprint.registry.hook.topology_updated(
            trial=running.blueprint.trial.to_json(), step=history[-1].step, report=asdict(history[-1])
        )


def _log(running: RunningTrial, epoch: int, loss: float) -> None:
    """Append one line to the curve, with the metric on the validation split where it is due."""
    last = epoch + 1 == running.training.epochs
    due = len(running.data.validation) > 0 and (last or (epoch + 1) % running.training.eval_every == 0)
    metric = running.task.metric.key
    figure = evaluate(running, running.data.validation)[metric] if due else None
    # nothing stops the trial from here to the next epoch: an epoch has one line and one point, or none
    running.progress.validation = figure
    point = running.progress.exploration.observe(epoch + 1, running.sparsifier)
    line = {
        "epoch": epoch + 1,
        "step": running.sparsifier.steps,
        "loss": loss,
        validation_key(running.task): figure,
        "density": running.sparsifier.density,
        "r_s": running.sparsifier.r_s,
        **{name: point.get(name) for name in ("never_dropped", "bottom_previous", "channels")},
        "seconds": running.progress.seconds,
    }
    if ranks.rank() == 0:
        fence.check(running.folder)
        append_line(running.folder / CURVE, json.dumps(line))
        if running.tracking is not None:
            running.tracking.log(line, running.sparsifier.steps)


@torch.no_grad()
def evaluate(running: RunningTrial, split: AnySplit) -> dict[str, float]:
    """The task's metrics over a whole split, of which each rank takes its batches.

    Norms have the averages of rank 0. An evaluation that is interrupted is made again.
    """
    rank, world = ranks.rank(), ranks.world()
    model = (
        running.inner if world > 1 else running.model
    )  # DDP's own forward would wait for ranks that have no batch
    model.eval()
    ranks.hold_as_rank_0(buffer for buffer in model.buffers() if buffer.is_floating_point())
    task, device = running.task, running.accelerator.device
    sums, seen = torch.zeros((), device=device, dtype=torch.float64), 0
    batches = evaluated_batches(
        running.data, split, max(1, 4 * running.training.batch_size // world),
        device=device, rank=rank, world=world, workers=running.readers,
    )  # fmt: skip
    for inputs, targets in batches:
        if world == 1:
            pause(running, by_clock=False)
        with running.accelerator.autocast():
            outputs = model(laid_out(inputs, memory_format(running.training))).float()
        sums = sums + task.sums(outputs, targets).double()
        seen += task.count(targets)
    (width,) = ranks.most([sums.numel()])  # a rank that had no batch knows of no sums
    sums = sums.reshape(-1) if seen else sums.new_zeros(width)
    everywhere = ranks.add_up(torch.tensor(float(seen), device=device, dtype=torch.float64))
    if int(everywhere) != len(split):
        raise StrategyError(
            f"task {task.name}: {int(everywhere)} {task.samples} were evaluated, of {len(split)}: the length of a "
            "split is what the task's `count` counts (`Examples(inputs, targets, count)`)"
        )
    return task.figures(ranks.add_up(sums).tolist(), len(split))
