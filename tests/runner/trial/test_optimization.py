"""Learning rates and groups of parameters, against nanoGPT's own formulas and counts."""

from __future__ import annotations

import math

import pytest
import torch

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import Training, load_matrix
from dstbench.runner.matrix.validation import validated
from dstbench.runner.trial.optimization import build_optimizer, build_schedule

NANOGPT = {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 100, "optimizer": "adamw"}


def nanogpt_rate(step, warmup=100, decay=2000, top=1e-3, least=1e-4):
    """train.py's get_lr."""
    if step < warmup:
        return top * (step + 1) / (warmup + 1)
    ratio = (step - warmup) / (decay - warmup)
    return least + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (top - least)


def test_the_learning_rate_is_nanogpts_at_every_step():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    set_rate = build_schedule(optimizer, Training(epochs=8, **NANOGPT), steps_per_epoch=250)
    for step in range(2000):
        set_rate(step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(nanogpt_rate(step), rel=1e-9)


def test_matrices_alone_decay():
    training = load_matrix("shakespeare-char").training
    model = registry().build("model", "gpt")(num_classes=65, input_shape=(64,))
    groups = build_optimizer(model, training).param_groups
    sizes = [(sum(p.numel() for p in group["params"]), len(group["params"])) for group in groups]
    assert sizes == [(802_944, 18), (1_152, 9)]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {group["betas"] for group in groups} == {(0.9, 0.99)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"warmup_steps": 5, "warmup_epochs": 1},
            "warmup_steps: a warm-up is given in steps or in epochs, got both",
        ),
        (
            {"warmup_steps": 5, "schedule": "poly"},
            "warmup_steps: timm's schedule 'poly' takes warmup_epochs alone",
        ),
        (
            {"min_lr": 0.01, "schedule": "constant"},
            "min_lr: only schedules 'cosine' and 'linear' end at one, got 'constant'",
        ),
        ({"min_lr": 0.2}, r"min_lr: expected at most lr, 0.1, got 0.2"),
        ({"betas": [0.9, 0.99]}, "betas: adam and adamw have some, 'sgd' doesn't"),
        ({"betas": [0.9], "optimizer": "adam"}, r"betas\[1\]: expected a value"),
        ({"decay": "matrix"}, "decay"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(BadInput, match=message):
        validated(Training, {"epochs": 2, **settings}, "training")


def test_a_setting_that_was_left_out_stays_out():
    training = Training(epochs=2)
    assert training.model_dump(mode="json", exclude_defaults=True) == {"epochs": 2}
    assert validated(Training, training.model_dump(), "training") == training
