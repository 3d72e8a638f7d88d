"""What overrides set for some cells, and what labels say of it."""

from __future__ import annotations

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan


def planned(axes, overrides):
    matrix = {
        "schema": 1,
        "name": "test",
        "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, **axes},
        "controls": [],
        "training": {"epochs": 2},
        "overrides": overrides,
    }
    return plan(load_matrix(matrix), registry())


def test_overrides_set_training_and_parameters_where_they_match():
    overridden = planned(
        {"recipe": ["rigl", "set"], "density": [0.2, 0.1]},
        [
            {"when": {"density": 0.1}, "set": {"training.lr": 0.5}},
            {"when": {"recipe": "set"}, "set": {"schedule.delta_t": 7}},
        ],
    )
    settings = {
        (t.label, t.trial.density): (
            t.trial.training.lr,
            t.trial.recipe.schedule.get("delta_t"),
        )
        for t in overridden.trials
    }
    assert settings == {
        ("rigl", 0.2): (0.1, None), ("set", 0.2): (0.1, 7), ("rigl", 0.1): (0.5, None), ("set", 0.1): (0.5, 7)
    }  # fmt: skip


def test_an_override_that_names_another_component_drops_the_old_ones_parameters():
    rules = [{"when": {"recipe": "rigl"}, "set": {"schedule.name": "constant", "schedule.zeta": 0.1}}]
    [trial] = planned({"recipe": [{"name": "rigl", "alpha": 0.5}]}, rules).trials
    assert trial.trial.recipe.schedule == {"name": "constant", "zeta": 0.1}


def test_a_label_says_which_component_an_override_puts_in_place_of_a_recipes_own():
    own = {"init.name": "uniform", "grow.name": "gradient", "schedule.delta_t": 7}  # RigL grows by gradients
    rules = [
        {"when": {"recipe": "rigl"}, "set": own},
        {"when": {"recipe": "set"}, "set": {"schedule.name": "constant"}},
        {
            "when": {"recipe": "static"},
            "set": {"schedule.name": "cosine", "schedule.delta_t": 7},
        },  # no control now
    ]
    trials = planned({"recipe": ["rigl", "set", "static"]}, rules).trials
    said = ["rigl(init=uniform)", "set(schedule=constant)", "static(schedule=cosine)"]
    assert [(trial.label, trial.control) for trial in trials] == [(label, None) for label in said]


def test_a_combination_with_a_schedule_of_its_own_says_so():
    axes = {
        "init": "erk",
        "structure": "unstructured",
        "prune": "set",
        "grow": ["random", "gradient"],
        "schedule": "cosine",
    }
    rules = [{"when": {"grow": "gradient"}, "set": {"schedule.name": "constant"}}]
    labels = [trial.label for trial in planned(axes, rules).trials]
    assert labels == ["erk · unstructured · set · random", "erk · unstructured · set · gradient · constant"]
