"""Plans of tuned matrices: the grid's order, keys that are those of ordinary trials, and what is refused."""

from __future__ import annotations

import json

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.execution.ahead import share_of
from dstbench.runner.matrix import known_plan
from dstbench.runner.matrix.config import Tune, load_matrix
from dstbench.runner.matrix.grids import points
from dstbench.runner.matrix.plan import plan

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {
        "model": "small_cnn", "dataset": "digits", "density": [0.1, 0.2], "recipe": ["rigl", "set"], "seed": [3, 1]
    },
    "controls": ["dense", "small-dense", "static"],
    "training": {"epochs": 1},
}  # fmt: skip
TUNE = {"lr": [0.1, 0.03, 0.3]}


def planned(*settings, **changes):
    return plan(load_matrix({**MATRIX, "tune": TUNE, **changes}, settings), registry())


@pytest.mark.parametrize(
    ("grid", "order"),
    [
        ({"lr": (0.1, 0.03, 0.3)}, [0.1, 0.03, 0.3]),
        ({"lr": (1, 0.3, 0.03, 0.1)}, [0.1, 0.3, 0.03, 1]),
        ({"lr": (0.2, 0.1)}, [0.1, 0.2]),
        ({"optimizer": ("sgd", "adamw", "adam")}, ["adamw", "sgd", "adam"]),
    ],
)
def test_points_lie_from_the_middle_outwards_and_the_smaller_first(grid, order):
    [name] = grid
    assert [point[name] for point in points(grid)] == order


def test_grids_of_several_settings_multiply():
    grid = {"lr": (0.3, 0.1, 0.03), "weight_decay": (0, 5e-4)}
    assert points(grid) == (
        {"lr": 0.1, "weight_decay": 0}, {"lr": 0.1, "weight_decay": 5e-4},
        {"lr": 0.03, "weight_decay": 0}, {"lr": 0.03, "weight_decay": 5e-4},
        {"lr": 0.3, "weight_decay": 0}, {"lr": 0.3, "weight_decay": 5e-4},
    )  # fmt: skip


def test_candidates_are_the_trials_of_an_untuned_matrix_and_tuning_trials_are_none_of_them():
    tuned = planned()
    assert (len(tuned.trials), len(tuned.tuning)) == (
        18,
        27,
    )  # dense once, 4 others at 2 densities; 2 seeds, 3 rates
    for i, rate in enumerate(TUNE["lr"]):
        plain = plan(load_matrix(MATRIX, [f"training.lr={rate}"]), registry())
        assert [trial.candidates[i].key for trial in tuned.trials] == [trial.key for trial in plain.trials]
        assert [trial.candidates[i].settings["lr"] for trial in tuned.trials] == [rate] * 18
        assert not {trial.key for trial in plain.trials} & {trial.key for trial in tuned.tuning}


def test_a_tuning_trial_is_that_of_its_setting_on_validation_data_with_the_first_seed():
    tuned = planned("tune.lr=0.1,0.03", "recipe=rigl", "controls=", "density=0.1")
    first, second = tuned.tuning
    plain = plan(load_matrix(MATRIX, ["recipe=rigl", "controls=", "density=0.1", "seed=3"]), registry())
    said = first.trial.to_json()
    assert said.pop("evaluated") == "validation"
    assert said.pop("measure") == {"throughput": False}
    expected = plain.trials[0].trial.to_json()
    assert (first.settings, second.settings) == ({"lr": 0.03}, {"lr": 0.1})
    assert second.trial.to_json()["training"] == expected["training"]
    assert {**said, "training": expected["training"]} == {n: v for n, v in expected.items() if n != "measure"}


def test_the_same_budget_for_every_method_and_control():
    by_method: dict[str, list[float]] = {}
    for trial in planned("density=0.1").tuning:
        by_method.setdefault(trial.label, []).append(trial.settings["lr"])
    assert list(by_method) == ["dense", "small-dense", "static", "rigl", "set"]
    assert all(rates == [0.1, 0.03, 0.3] for rates in by_method.values())


@pytest.mark.parametrize(
    ("per", "groups"),
    [
        (["method", "density"], 9),
        (["method"], 5),
        (["density"], 3),
        ([], 1),
        (["model", "method", "density"], 9),
    ],
)
def test_what_has_a_choice_of_its_own(per, groups):
    tuned = planned(tune={**TUNE, "per": per})
    assert len({trial.tuned.trials for trial in tuned.trials}) == groups
    assert len(tuned.tuning) == 27  # whatever is put together is tried alike


def test_every_seed_that_tunes_is_tried():
    tuned = planned("recipe=rigl", "controls=", "density=0.1", tune={**TUNE, "seeds": [5, 6]})
    assert sorted({trial.trial.seed for trial in tuned.tuning}) == [5, 6]
    assert [len(keys) for keys in tuned.trials[0].tuned.trials] == [2, 2, 2]


def test_what_belongs_together_is_in_one_shard():
    whole = planned()
    shards = [share_of(whole, f"{i}/3") for i in (1, 2, 3)]
    assert sum(len(shard.trials) for shard in shards) == 18
    assert sum(len(shard.tuning) for shard in shards) == 27
    for shard in shards:
        there = {trial.key for trial in shard.tuning}
        assert all(set(keys) <= there for trial in shard.trials for keys in trial.tuned.trials)


def test_what_is_skipped_is_not_tuned():
    tuned = planned("density=1e-5", "recipe=rigl", "controls=")
    assert [bool(trial.skip) for trial in tuned.trials] == [True, True]
    assert (tuned.tuning, tuned.trials[0].candidates) == ((), (tuned.trials[0],))


def test_a_plan_that_is_kept_is_the_plan():
    tuned = planned()
    content = json.loads(json.dumps(known_plan._content(tuned)))
    assert known_plan._restored(tuned.matrix, content) == tuned


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": {}}, "tune: expected a setting of the training to tune"),
        ({"tune": {"lrr": [1]}}, "tune: lrr: unknown setting of the training; did you mean 'lr'"),
        ({"tune": {"lr": []}}, r"tune\.lr: expected at least one value, got none"),
        ({"tune": {"lr": [0.1, 0.10]}}, "tune: lr: 0.1 is there twice"),
        ({"tune": {"betas": [[0.9, 0.99]]}}, "tune: betas: has several values, and can't be tuned"),
        ({"tune": {"lr": [[1]]}}, "tune: lr: expected numbers, texts or truth values"),
        ({"tune": {"lr": 0.1, "seed": 1, "seeds": 2}}, "tune: expected `seed` or `seeds`, got both"),
        ({"tune": {"lr": 0.1, "per": "methods"}}, r"tune\.per\[0\]: expected 'method', 'density'"),
        ({"tune": [0.1]}, "tune: expected settings with the values to try"),
        ({"tune": {"lr": [0.1, -1]}}, "dense, tune: lr=-1: lr: expected a number greater than 0, got -1"),
        ({"tune": {"lr": ["fast"], "momentum": [0.9]}},
         "dense, tune: lr=fast momentum=0.9: lr: expected a valid number"),
        ({"overrides": [{"when": {"recipe": "rigl"}, "set": {"training.lr": 0.3}}]},
         r"overrides\[0\]\.set: training\.lr is tuned for every method alike"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(changes, said):
    with pytest.raises(BadInput, match=said):
        planned(**changes)


def test_data_without_a_validation_split_is_refused_by_name():
    with pytest.raises(BadInput, match=r"tune: the data set mnist\(validation=0\) has no validation split"):
        planned(axes={**MATRIX["axes"], "dataset": {"name": "mnist", "validation": 0}})
    text = {"model": "gpt", "dataset": {"name": "fables", "validation": 0}, "density": 0.1, "recipe": "rigl"}
    with pytest.raises(BadInput, match=r"tune: the data set fables\(validation=0\) has no validation split"):
        planned(axes=text)


def test_a_budget_beyond_what_is_meant_has_to_be_said():
    with pytest.raises(BadInput, match="500 cells with 30 trainings each to tune them, more than 10,000"):
        planned(
            axes={**MATRIX["axes"], "density": 0.1, "recipe": "rigl", "seed": [*range(500)]},
            tune={"lr": [i / 100 for i in range(1, 31)]},
        )


@pytest.mark.parametrize(
    ("setting", "grid"),
    [
        ("tune.lr=1,2", {"lr": (1, 2)}),
        ("tune.weight_decay=0", {"lr": (0.1, 0.03, 0.3), "weight_decay": (0,)}),
        ("training.epochs=3", {"lr": (0.1, 0.03, 0.3)}),
    ],
)
def test_the_command_line_says_what_is_tuned(setting, grid):
    assert load_matrix({**MATRIX, "tune": TUNE}, [setting]).tune.grid == grid


@pytest.mark.parametrize("setting", ["tune=", "tune.lr=", "training.lr=0.2"])
def test_the_command_line_tunes_nothing(setting):
    matrix = load_matrix({**MATRIX, "tune": {**TUNE, "seed": 1}}, [setting])
    assert matrix.tune is None
    assert matrix.tuning.startswith("none: every method")


def test_a_matrix_says_what_was_spent():
    matrix = load_matrix({**MATRIX, "tune": {**TUNE, "seeds": [1, 2]}})
    assert matrix.tuning == (
        "lr of 0.1, 0.03, 0.3, on validation data of seeds 1, 2, for each model, data set, method, density, "
        "controls included"
    )
    assert load_matrix(matrix) == matrix
    spent = {"budget": {"tuning": "delta_t by hand"}}
    assert load_matrix({**MATRIX, **spent, "tune": TUNE}).tuning.endswith(
        "controls included; delta_t by hand"
    )
    assert load_matrix({**MATRIX, **spent}).tuning == "delta_t by hand"
    assert isinstance(matrix.tune, Tune)
