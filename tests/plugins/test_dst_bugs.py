"""Known defects of the reference implementations of dynamic sparse training, by their number in our list: a test
named after it shows that each is absent here. Those that belong to another part of the code are tested there."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dstbench
from dstbench.api import Policy
from dstbench.cli.app import app
from dstbench.core.engine.books import Goal
from dstbench.core.engine.structures import as_structure
from dstbench.core.engine.update import update_masks
from dstbench_plugins.init.saliency import Saliency
from dstbench_plugins.prune.set import WithinSign
from fakes.engine import draw, mlp, sgd, train, view

TESTS = Path(__file__).parents[1]
REGISTRY = dstbench.registry()
AXES = ("init", "structure", "prune", "grow", "schedule", "recipe")


def test_every_known_defect_has_a_test():
    source = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    methods = "itop|snfs|rigl|srigl|mest|dsr"
    found = {int(number) for number in re.findall(rf"def test_(?:{methods})_bug_(\d+)_", source)}
    assert found >= set(range(1, 20))


def test_snfs_bug_4_set_keeps_the_most_negative_weights():
    """Sorted by value, the most negative weights, whose magnitude is largest, would be the first to go."""
    weight = torch.tensor([[-9.0, -8, -0.2, -0.1, 0.1, 0.2, 8, 9]])
    layer = view(weight, torch.ones(1, 8).bool(), name="layer")
    goal = Goal(4, 4, {"layer": 4}, {"layer": 4})
    structures = {"layer": as_structure(REGISTRY.build("structure", "unstructured"))}
    set_ = Policy(WithinSign())
    masks, *_ = update_masks({"layer": layer}, structures, set_, Policy(), goal, draw())
    assert masks["layer"].tolist() == [[True, True, False, False, False, False, True, True]]


@pytest.mark.parametrize("name", [name for name in REGISTRY["model"] if name.startswith("wrn-")])
def test_itop_bug_14_every_wide_resnet_can_be_made_and_run(name):
    """A second class of the same name hid the block that wide ResNets are made of."""
    with torch.device("meta"):
        model = REGISTRY.build("model", name)(num_classes=10, input_shape=(3, 32, 32))
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_itop_bug_15_no_image_is_in_two_splits(name):
    """The validation loader was the test loader, so the best epoch was chosen on the test images."""
    data = REGISTRY.build("dataset", name)(None, False)
    splits = [
        {image.numpy().tobytes() for image in s.images} for s in (data.train, data.validation, data.test)
    ]
    assert all(splits)
    assert len(set.union(*splits)) == sum(map(len, splits))


@pytest.mark.parametrize("axis", AXES)
def test_itop_bug_16_every_name_that_is_listed_can_be_asked_for(axis, tmp_path):
    """Options that crashed, did nothing or were missing from the list of what is allowed."""
    names = list(REGISTRY[axis])
    matrix = tmp_path / "matrix.yaml"
    axes = "model: small_cnn, dataset: synthetic, density: 0.2"
    matrix.write_text(
        f"schema: 1\nname: m\naxes: {{{axes}, recipe: rigl}}\ntraining: {{epochs: 1}}\ncontrols: []\n"
    )
    done = CliRunner().invoke(app, ["plan", str(matrix), "--json", f"-S{axis}={','.join(names)}"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)["counts"]
    assert counts["trials"] + counts["duplicates"] == len(names)


def topology(seed: int, noise: int) -> list[torch.Tensor]:
    """Masks of a DSR training whose global generators were set to ``noise``."""
    random.seed(noise)
    np.random.seed(noise)
    torch.manual_seed(noise)
    model = mlp()
    recipe = {"name": "dsr", "delta_t": 1}
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe, density=0.3, total_steps=12, seed=seed)
    train(model, sparsifier, 12)
    assert len(sparsifier.history) > 3
    return list(sparsifier.masks.values())


def test_dsr_bug_18_its_own_seed_alone_decides():
    """Positions were drawn from numpy's global generator, which nobody had seeded."""
    first, again, other = topology(0, noise=1), topology(0, noise=2), topology(1, noise=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_rigl_bug_19_saliency_is_of_the_gradient_times_the_weight():
    """By the gradient alone the first weight would stay, by the weight alone the second."""
    weight, grad = torch.tensor([[0.1, 10.0, 2.0]]), torch.tensor([[9.0, 0.1, -3.0]])
    scores = Saliency()(view(weight, grad=grad), torch.Generator())
    torch.testing.assert_close(scores, torch.tensor([[0.9, 1.0, 6.0]]))


def test_random_growth_explores_as_the_formula_says():
    """1 - R_s = (1 - d) Π (1 - p d / (1 - d + p d)): dropped positions are candidates like any other."""
    model = nn.Linear(400, 400, bias=False)
    schedule = {"name": "cosine", "alpha": 0.5, "delta_t": 1, "stop": 1.0}
    density, steps = 0.1, 40
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), {"grow": "random", "schedule": schedule}, density=density, total_steps=steps
    )
    unexplored = 1 - density
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        model(torch.randn(4, 400, generator=draws)).square().mean().backward()
        sparsifier.step()
        model.zero_grad()
    for report in sparsifier.history:
        moved = 0.25 * (1 + np.cos(np.pi * report.step / steps)) * density
        unexplored *= 1 - moved / (1 - density + moved)
    assert len(sparsifier.history) == steps - 1
    assert sparsifier.r_s == pytest.approx(1 - unexplored, abs=0.005)
    assert 0.5 < sparsifier.r_s < 0.9  # far from where any rule would agree
