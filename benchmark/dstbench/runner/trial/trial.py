"""One trial = one function: build, train, evaluate, and a record of what came out, whatever came out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from dstbench.core.cost.layers import workload
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training import checkpoint
from dstbench.errors import BadInput, DataUnavailable
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.results.rules import EVALUATION
from dstbench.results.storage import is_full, patiently
from dstbench.runner.failures import ending, failure
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.key import digest
from dstbench.runner.matrix.plan import without_validation
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import loop, provenance, tensor_files
from dstbench.runner.trial.batches import reading_workers
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.feeding import fingerprint, laid_out, training_batches
from dstbench.runner.trial.measures import final_measures, ranked_by
from dstbench.runner.trial.optimization import build_optimizer, build_schedule, memory_format
from dstbench.runner.trial.resume import remove_checkpoint, resumed
from dstbench.runner.trial.running import STATE, Pauses, RunningTrial
from dstbench.runner.trial.synchronised_norm import SynchronisedNorms
from dstbench.runner.trial.tracking import Tracking


def run_trial(
    trial: TrialSpec,
    folder: Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    threads: int | None = None,
    checkpoint_seconds: float = 600.0,
    trackers: Sequence[str] = (),
    run_name: str = "trial",
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Run one trial and return its record; a failure is a record too, with status, reason, phase and traceback.

    ``folder`` gets ``curve.jsonl``, ``state.pt`` and, while training, ``checkpoint.pt``, every so many seconds, and
    where the trial is asked to stop (see ``interruption``): Interrupted is then raised. A trial that was interrupted
    continues from it to the bit, from the one before where it is damaged or another's, or anew. checkpoint_seconds:
    0 for none until it is asked. threads: those of the machine that are this trial's, by which files are read ahead;
    no figure depends on it, for what computes are ``training.threads``. Only Interrupted, KeyboardInterrupt and
    SystemExit get through.

    trackers: names of Accelerate's, told what the curve and the record hold, under ``run_name``.

    A trial that is there to choose settings (``tunes``) is evaluated on validation data alone.

    A trial of several ``training.processes`` is run by calling this in as many, started as torchrun starts them:
    rank 0 writes what is written, and its record is the trial's. One that fails leaves its checkpoint, for whether
    a rank of it was killed is seen from outside alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = registry or default_registry()
    record = {"trial": trial.to_json(), **ending("ok")}
    origin: dict[str, Any] = {**provenance.machine(), "started": provenance.now()}
    measures: dict[str, Any] = {}
    first = int(os.environ.get("RANK", "0")) == 0 or trial.training.processes == 1
    if first:
        source.hook.trial_started(trial=record["trial"])
    phase = "build"
    try:
        torch.set_num_threads(trial.training.threads)
        origin["threads"] = torch.get_num_threads()
        origin["components"] = provenance.components(trial, source)
        origin["plugins"] = provenance.plugins(origin["components"])
        blueprint = Blueprint(trial, source)
        measures = ranked_by(blueprint.task)  # a board speaks of its metric also where nothing finished
        running, unused = resumed(
            lambda: build_trial(blueprint, folder, data_root, download, device, threads), folder
        )
        origin |= {"checkpoint": unused} if unused else {}
        origin["dataset_fingerprint"] = fingerprint(running.data)
        origin["evaluation"] = EVALUATION
        if not running.progress.seconds:
            running.progress.began = origin["started"]
        origin |= {"began": running.progress.began} if running.progress.began else {}
        if running.started is not None:
            origin["start"] = running.started.provenance()
        phase = "train"
        running.pauses = Pauses(checkpoint_seconds)
        if trial.training.sync_batch_norm:
            running.norms = SynchronisedNorms()
        if trackers and first:
            running.tracking = Tracking(trackers, run_name, folder, record["trial"])
        loop.train(running)
        phase = "evaluate"
        figures = None if trial.tunes else loop.evaluate(running, running.data.test)
        if first:
            measures = final_measures(running, figures)
            if running.tracking is not None:
                running.tracking.log(measures, running.sparsifier.steps)
                running.tracking.finish()
            _save(running)
            remove_checkpoint(folder)
    except Exception as error:  # a failure of any kind is a result
        if is_full(error) or isinstance(error, DataUnavailable):
            raise  # but for these, which are this machine's: it goes on from its checkpoint, or elsewhere
        if trial.training.processes == 1:
            remove_checkpoint(folder)  # trying again starts anew
        record |= failure(error, phase)
    origin["finished"] = provenance.now()
    record |= {"measures": measures, "provenance": origin}
    if first:
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
    if blueprint.trial.tunes and not len(data.validation):
        raise BadInput(without_validation(blueprint.trial.dataset))
    accelerator = make_accelerator(device, training)
    model = blueprint.model(data.input_shape, data.num_classes)
    started = blueprint.started(model, data.input_shape, root, download)
    sample = blueprint.sample(data.input_shape, data.num_classes)
    work = workload(model, data.input_shape, example_input=sample)
    meter = TrainingMeter(work.costs, products=work.products)
    model.to(accelerator.device).to(memory_format=memory_format(training))
    batches = training_batches(
        data,
        training.batch_size // training.processes,
        seed=blueprint.trial.seed,
        device=accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=(readers := None if threads is None else reading_workers(threads)),
    )
    optimizer = build_optimizer(model, training)
    per_epoch = len(batches) // training.gradient_accumulation
    if per_epoch == 0:
        raise BadInput(
            f"training.gradient_accumulation: {training.gradient_accumulation} is more than the "
            f"{len(batches)} batches of an epoch: no step would be applied"
        )
    example = example_batch(blueprint, data.input_shape, data.num_classes, accelerator.device)
    ahead = (batch for epoch in count() for batch in batches.epoch(epoch))  # drawn as training will draw them
    sparsifier = blueprint.sparsifier(model, optimizer, per_epoch, example, ahead)
    ahead.close()
    for look in sparsifier.passes:
        meter.look(look.active, look.samples, look.sparse, look.dense, look.products)
    prepared, wrapped = accelerator.prepare(model, optimizer)
    if rank := accelerator.process_index:  # its entries are its own, and so is what a dropout draws for them
        torch.manual_seed(int(digest({"seed": blueprint.trial.seed, "rank": rank})[:15], 16))
    # from the configured rate, before a checkpoint brings the one that it had got to
    set_rate = build_schedule(sparsifier.optimizer, training, per_epoch)
    return RunningTrial(
        blueprint, folder, data, accelerator, prepared, wrapped, sparsifier, batches, meter, set_rate, work, readers,
        started=started,
    )  # fmt: skip


def example_batch(
    blueprint: Blueprint, shape: tuple[int, ...], classes: int, device: torch.device
) -> torch.Tensor:
    """The inputs of a made-up batch like those to come."""
    training = blueprint.trial.training
    inputs, _ = blueprint.example(training.batch_size // training.processes, shape, classes)
    return laid_out(inputs.to(device), memory_format(training))


def make_accelerator(device: str, training: Training) -> Accelerator:
    """An Accelerator of this trial's precision, also where this process already had another one."""
    from accelerate.state import AcceleratorState

    _answer_for("lomo_optim")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != training.mixed_precision:
        AcceleratorState._reset_state()  # private, and the only way: a second precision raises otherwise
    accelerator = Accelerator(
        cpu=device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=training.mixed_precision,
        # as a plugin: what a launcher's environment says would replace a number
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=training.gradient_accumulation),
    )
    torch.set_num_threads(training.threads)  # Accelerate sets as many as there are cores for each process
    if accelerator.num_processes != training.processes:
        raise BadInput(
            f"training.processes: {training.processes}, and this is one of {accelerator.num_processes}: "
            "`dstbench run` starts as many as a trial wants; torchrun and accelerate launch have to be told as many"
        )
    return accelerator


def _answer_for(package: str) -> None:
    """Say once that a package isn't there: Accelerate asks twice a step, and Python looks through its whole path."""
    if package not in sys.modules and find_spec(package) is None:
        sys.modules[package] = None  # type: ignore[assignment]  # an import of it fails at once, as documented


def _save(running: RunningTrial) -> None:
    """The finished network: what throughput, export and comparison need. Loads without pickle."""
    content = {
        "model": {name: value.cpu() for name, value in running.inner.state_dict().items()},
        "masks": {name: checkpoint.pack(mask) for name, mask in running.sparsifier.masks.items()},
        "sparsifier": running.sparsifier.state_dict(),
        "input_shape": list(running.data.input_shape),
        "num_classes": running.data.num_classes,
    }
    patiently(lambda: tensor_files.write(content, running.folder / STATE))
