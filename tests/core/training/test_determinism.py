"""One seed, one topology: in any process, under any hash seed, whatever the global generators hold."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dstbench
from dstbench.core.engine.random import generator
from fakes.engine import mlp, recipe, sgd, train

METHODS = {
    "random": recipe("constant", 2, prune="random"),
    "gradient": recipe("constant", 2, grow="gradient"),
    "momentum": recipe("constant", 2, grow={"name": "momentum", "share": "momentum"}, prune="set"),
}


def fingerprint(parts, seed=0):
    """A hash of the masks of every step."""
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe=parts, density=0.2, total_steps=12, seed=seed)
    digest = hashlib.sha256()

    def add():
        for name, mask in sparsifier.masks.items():
            digest.update(name.encode() + mask.numpy().tobytes())

    add()
    train(model, sparsifier, 12, after=add)
    return digest.hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_global_generators_are_neither_read_nor_moved(method):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    first = fingerprint(METHODS[method])
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert fingerprint(METHODS[method]) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_another_seed_is_another_topology():
    assert fingerprint(METHODS["random"], seed=1) != fingerprint(METHODS["random"], seed=0)


def test_rigl_bug_10_another_process_with_another_hash_seed_makes_the_same_masks():
    script = (
        "import torch; torch.set_num_threads(1); torch.manual_seed(99)\n"
        "from test_determinism import METHODS, fingerprint\n"
        "print(*[fingerprint(parts) for parts in METHODS.values()])"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == [fingerprint(parts) for parts in METHODS.values()]


def test_generators_depend_on_every_part_of_their_key():
    keys = [
        (0, "a", 1, "grow"),
        (1, "a", 1, "grow"),
        (0, "b", 1, "grow"),
        (0, "a", 2, "grow"),
        (0, "a", 1, "prune"),
    ]
    keys += [(0, "a1", 1, "grow"), (0, "a", 11, "grow"), (-1, "a", 1, "grow")]
    draws = [tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in keys]
    assert len(set(draws)) == len(keys)
    assert torch.equal(torch.rand(4, generator=generator(*keys[0])), torch.tensor(draws[0]))


def test_layers_of_one_shape_get_masks_of_their_own():
    model = mlp(sizes=(16, 16, 16, 16))
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe=recipe(init="uniform"), density=0.5, total_steps=5
    )
    masks = list(sparsifier.masks.values())
    overlap = float((masks[0] & masks[1]).sum()) / 128
    assert 0.3 < overlap < 0.7  # as two independent draws
