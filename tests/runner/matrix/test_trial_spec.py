"""A trial as a value: the same in a record and out of one, refused by field where it can't be."""

import json
import pickle

import pytest

from dstbench.errors import BadInput
from dstbench.recipe import Recipe
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.trial_spec import TrialSpec


def spec(recipe, training=None, **measure):
    training = training or Training(epochs=3)
    return TrialSpec({"name": "m", "width": 2.0}, {"name": "d"}, 0.1, 7, recipe, training, Measure(**measure))


PARTS = {kind: {"name": kind} for kind in ("init", "structure", "prune", "grow", "schedule")}
SPECS = [
    spec(Recipe(**PARTS)),
    spec(Recipe(**PARTS, dense_layers=("fc", "conv*"), multiplier=2.5), rounds=9),
    spec(Recipe(**PARTS, narrow=True)),
    spec(Recipe(dense=True, multiplier=2)),
    spec(Recipe(**PARTS), Training(epochs=9, schedule="multistep", milestones=(3, 6)), throughput=False),
]


@pytest.mark.parametrize("trial", SPECS)
def test_a_record_gives_back_the_trial_that_it_got(trial):
    assert TrialSpec.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_defaults_and_what_a_dense_training_has_not_are_left_out():
    assert spec(Recipe(dense=True, dense_layers=("fc",))).to_json() == {
        "model": {"name": "m", "width": 2.0},
        "dataset": {"name": "d"},
        "density": 0.1,
        "seed": 7,
        "recipe": {"dense": True},
        "training": {"epochs": 3},
        "measure": {},
    }
    assert spec(Recipe(**PARTS, narrow=True)).to_json()["recipe"] == {"narrow": True, **PARTS}


def test_a_dense_training_names_no_strategies():
    assert list(spec(Recipe(dense=True)).components) == ["model", "dataset"]
    assert list(spec(Recipe(**PARTS)).components) == ["model", "dataset", *PARTS]


@pytest.mark.parametrize("trial", SPECS)
def test_executors_send_a_trial_to_another_process_at_little_cost(trial):
    sent = pickle.dumps(trial)
    assert len(sent) < 3000
    assert pickle.loads(sent) == trial


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"grwo": "random"}}, r"recipe: unknown key 'grwo'; did you mean 'grow'\?"),
        ({"recipe": {"multiplier": 0}}, "multiplier: expected a number > 0, got 0"),
        (
            {"training": {"epochs": 0}},
            "training: epochs: expected a number greater than or equal to 1, got 0",
        ),
        ({"training": {"epochs": 1, "lrr": 1}}, r"training: lrr: unknown key; did you mean 'lr'\?"),
        ({"measure": {"round": 1}}, r"measure: round: unknown key; did you mean 'rounds'\?"),
    ],
)
def test_a_record_of_what_is_no_trial_is_refused_by_its_field(changes, message):
    with pytest.raises(BadInput, match=message):
        TrialSpec.from_json({**SPECS[0].to_json(), **changes})


def test_what_stands_beside_the_fields_of_a_trial_is_left_aside():
    assert TrialSpec.from_json({**SPECS[0].to_json(), "comment": "mine"}) == SPECS[0]
