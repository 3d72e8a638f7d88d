"""Loops of everyone's own, and how their training is held against a plain one."""

import torch
from torch import nn

import dstbench
from fakes.engine import assert_masked, batches, recipe, sgd

RIGL = recipe("constant", 2, grow="gradient")


def sparsify(model, optimizer=None, density=0.2, total_steps=24, **options):
    options.setdefault("recipe", RIGL)
    optimizer = sgd(model) if optimizer is None else optimizer
    return dstbench.Sparsifier(model, optimizer, density=density, total_steps=total_steps, **options)


def loss_of(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def assert_equal_to(reference, model, sparsifier):
    assert sparsifier.steps == reference[1].steps
    assert sparsifier.history == reference[1].history
    assert all(torch.equal(mask, reference[1].masks[name]) for name, mask in sparsifier.masks.items())
    assert same(model, reference[0])


def accumulate(model, sparsifier, optimizer, steps, parts):
    for count, batch in enumerate(batches(steps * parts)):
        (loss_of(model, batch) / parts).backward()
        if (count + 1) % parts == 0:
            sparsifier.step()
            optimizer.zero_grad()
            assert_masked(sparsifier)
