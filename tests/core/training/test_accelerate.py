"""Accelerate's loops: wrapped optimizers, accumulation, checkpoints."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from fakes.engine import assert_masked, batches, mlp, sgd, train
from fakes.loops import accumulate, assert_equal_to, loss_of, sparsify


@pytest.fixture
def fresh_accelerate():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.mark.parametrize("before", [True, False], ids=["before prepare", "after prepare"])
def test_accelerates_optimizer_wrapper(reference, fresh_accelerate, before):
    """sparsimony refuses AcceleratedOptimizer."""
    accelerator = Accelerator(cpu=True)
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer) if before else None
    model, optimizer = accelerator.prepare(model, optimizer)
    sparsifier = sparsifier or sparsify(model, optimizer)
    for batch in batches(12):
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, batch))
        optimizer.step() if before else sparsifier.step()
        assert_masked(sparsifier)
    assert_equal_to(reference, model, sparsifier)


@pytest.mark.parametrize("before", [True, False], ids=["before prepare", "after prepare"])
def test_accelerates_accumulation_counts_applied_steps(fresh_accelerate, before):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, plain = mlp(), mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer) if before else None
    model, optimizer = accelerator.prepare(model, optimizer)
    sparsifier = sparsifier or sparsify(model, optimizer)
    for batch in batches(12):
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, batch))
            optimizer.step() if before else sparsifier.step()
            optimizer.zero_grad()
    other = sparsify(plain)
    accumulate(plain, other, other.optimizer, steps=4, parts=3)
    assert sparsifier.steps == 4
    assert [report.step for report in sparsifier.history] == [2, 4]
    assert_equal_to((plain, other), model, sparsifier)


def test_accelerates_checkpoint_hook(fresh_accelerate, tmp_path):
    """A Sparsifier is what ``register_for_checkpointing`` takes."""
    accelerator = Accelerator(cpu=True)
    model = mlp()
    model, optimizer = accelerator.prepare(model, sgd(model))
    sparsifier = sparsify(model, optimizer)
    accelerator.register_for_checkpointing(sparsifier)
    train(model, sparsifier, 5)
    accelerator.save_state(str(tmp_path / "state"))
    saved = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, sparsifier, 12, skip=5)
    accelerator.load_state(str(tmp_path / "state"))
    assert sparsifier.steps == 5
    assert all(torch.equal(mask, saved[name]) for name, mask in sparsifier.masks.items())
    assert_masked(sparsifier)
