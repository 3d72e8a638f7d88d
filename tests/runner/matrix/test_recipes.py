"""Every registered recipe, planned and trained as the command line does it: two epochs of real images."""

from __future__ import annotations

import pytest

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.trial.trial import run_trial

STEPS = {"delta_t": 3}
EPOCHS = {"delta_t": 1}  # of methods that count their periods in epochs


def spec(name):
    """A recipe with periods short enough for 2 epochs of 9 steps."""
    parameters = {p.name: p.default for p in registry().resolve("recipe", name).parameters()}
    if "delta_t" not in parameters:
        return {"name": name}
    return {"name": name, **(EPOCHS if parameters.get("unit") == "epochs" else STEPS)}


@pytest.mark.parametrize("name", registry()["recipe"])
def test_every_recipe_trains_two_epochs_on_digits(name, tmp_path):
    matrix = {
        "schema": 1,
        "name": "recipes",
        "axes": {
            "model": {"name": "small_cnn", "width": 0.5},
            "dataset": "digits",
            "density": 0.2,
            "recipe": spec(name),
        },
        "controls": [],
        "training": {"epochs": 2, "batch_size": 128, "lr": 0.05, "eval_every": 2},
    }
    [planned] = plan(load_matrix(matrix), registry()).trials
    assert planned.label.startswith(name)
    record = run_trial(planned.trial, tmp_path, device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    measures, recipe = record["measures"], planned.trial.recipe
    assert measures["top1"] > 5
    if recipe.dense or recipe.narrow:
        return
    coarse = recipe.structure["name"] != "unstructured"  # a layer's density is met to half a unit
    assert measures["density"] == pytest.approx(0.2, abs=0.05 if coarse else 1e-3)
    moves = "delta_t" in spec(name) or recipe.schedule["name"] == "alternating"
    assert (measures["updates"] > 0) == moves
    removes = recipe.structure["name"] == "emergent_channel" and recipe.structure.get("channel_sparsity") != 0
    assert (measures["channels_removed"] > 0) == removes
