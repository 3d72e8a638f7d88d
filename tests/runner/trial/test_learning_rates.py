"""Learning rates over a training, by hand."""

from __future__ import annotations

import pytest
import torch

from dstbench.errors import BadInput
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.validation import validated
from dstbench.runner.trial.optimization import build_optimizer, build_schedule


def rates(**settings):
    """At every second step of ten epochs of two."""
    training = Training(epochs=10, **settings)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), training)
    set_rate = build_schedule(optimizer, training, steps_per_epoch=2)
    seen = []
    for step in range(0, 21, 5):
        set_rate(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_linear_falls_in_a_line_to_its_end():
    assert rates(lr=0.025, schedule="linear", min_lr=2.5e-4) == pytest.approx(
        [0.025, 0.0188125, 0.012625, 0.0064375, 0.00025]
    )
    assert rates(lr=0.4, schedule="linear") == pytest.approx([0.4, 0.3, 0.2, 0.1, 0])


def test_cosine_ends_where_it_is_told():
    assert rates(lr=1.0, min_lr=0.1)[2:] == pytest.approx([0.55, 0.1 + 0.9 * 0.1464466, 0.1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_lr": 0.2}, "at most lr, 0.1"),
        ({"min_lr": 0.01, "schedule": "constant"}, "only schedules"),
    ],
)
def test_an_end_that_no_schedule_has_is_refused(settings, said):
    with pytest.raises(BadInput, match=said):
        validated(Training, {"epochs": 1, **settings}, "training")
