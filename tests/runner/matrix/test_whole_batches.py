"""A plan refuses what would have no whole batch, or no step, in an epoch, where the data's size is known."""

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan


def planned(dataset, **training):
    axes = {"model": "small_cnn", "dataset": dataset, "density": 0.1, "recipe": ["rigl"]}
    training = {"epochs": 2, **training}
    matrix = {"schema": 1, "name": "test", "axes": axes, "controls": [], "training": training}
    return plan(load_matrix(matrix), registry())


@pytest.mark.parametrize(
    ("dataset", "training", "said"),
    [
        (
            "digits",
            {"batch_size": 1259},
            "batch_size: 1,259 is more than the 1,258 training entries of digits",
        ),
        ({"name": "synthetic", "images": 100}, {"batch_size": 128}, "choose at most 100"),
        (
            "digits",
            {"batch_size": 600, "gradient_accumulation": 3},
            "3 is more than the 2 batches of an epoch",
        ),
    ],
)
def test_a_training_without_a_step_is_refused(dataset, training, said):
    with pytest.raises(BadInput, match="test: rigl: training") as error:
        planned(dataset, **training)
    assert said in str(error.value)


def test_one_batch_and_one_step_are_enough():
    [trial] = planned("digits", batch_size=1258).trials
    assert trial.skip is None
    assert planned("digits", batch_size=629, gradient_accumulation=2).trials
