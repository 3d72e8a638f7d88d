"""Layers that the loss doesn't depend on: in one step, or ever."""

import pytest
import torch
from torch import nn

import dstbench
from fakes.engine import assert_masked, recipe, sgd


class Net(nn.Module):
    """Its second layer may be skipped, as module dropout does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x, skip=False):
        x = torch.relu(self.a(x))
        return self.head(x if skip else x + torch.relu(self.b(x)))


def run(sparsifier, model, steps, skipped=lambda step: False, after=lambda step: None):
    draw = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        sparsifier.optimizer.zero_grad()
        images, labels = torch.randn(16, 32, generator=draw), torch.randint(10, (16,), generator=draw)
        nn.functional.cross_entropy(model(images, skipped(step)), labels).backward()
        sparsifier.step()
        after(step)


def sparsifier_of(model, method, **options):
    return dstbench.Sparsifier(model, sgd(model), method, 0.2, total_steps=60, **options)


@pytest.mark.parametrize(
    "method",
    [
        recipe("constant", 3, grow="gradient"),
        recipe("constant", 3, grow="gradient", prune={"name": "magnitude", "share": "global"}),
        recipe("constant", 3, prune="mest", grow="gradient"),
        recipe({"name": "cubic", "delta_t": 3, "stop": 0.9, "regrow": 0.3}, grow="gradient", init="uniform"),
        recipe("constant", 3, structure={"name": "shuffled_block", "block_size": 2}, grow="gradient"),
    ],
    ids=["rigl", "global", "mest", "granet", "blocks"],
)
def test_a_layer_without_a_gradient_sits_the_update_out(method):
    torch.manual_seed(0)
    model = Net()
    sparsifier = sparsifier_of(model, method)
    seen = {}

    def check(step):
        report = sparsifier.history[-1] if sparsifier.history else None
        if step in (12, 24):
            assert report.step == step
            assert torch.equal(sparsifier.masks["b"], seen["b"])
            assert not torch.equal(sparsifier.masks["a"], seen["a"])
        if report is not None and report.step == step:
            target = sparsifier.timetable.target(step).final
            assert sum(sparsifier.budget.values()) == round(target * sparsifier.size)
            assert_masked(sparsifier)
        seen.update({name: mask.clone() for name, mask in sparsifier.masks.items()})

    run(sparsifier, model, 40, lambda step: step in (12, 24), check)
    final = sparsifier.timetable.target(39).final
    assert sum(sparsifier.allocation.values()) == round(final * sparsifier.size)


def test_momentum_serves_where_this_step_has_no_gradient():
    torch.manual_seed(0)
    model = Net()
    sparsifier = sparsifier_of(model, recipe("constant", 3, grow="momentum"))
    before = {}
    run(
        sparsifier,
        model,
        6,
        lambda step: step == 6,
        lambda step: before.setdefault(step, sparsifier.masks["b"]),
    )
    assert not torch.equal(before[6], before[5])


def test_a_method_that_reads_no_gradient_goes_on():
    torch.manual_seed(0)
    model = Net()
    sparsifier = sparsifier_of(model, recipe("constant", 3))
    masks = {}
    run(
        sparsifier,
        model,
        6,
        lambda step: step == 6,
        lambda step: masks.setdefault(step, sparsifier.masks["b"]),
    )
    assert not torch.equal(masks[6], masks[5])


@pytest.mark.parametrize(
    ("options", "at"), [({}, 3), ({"steps_per_epoch": 5}, 5), ({"steps_per_epoch": 2}, 2)]
)
@pytest.mark.parametrize("grow", ["gradient", "random", "momentum"])
def test_a_layer_that_never_has_a_gradient_is_said_once(grow, options, at):
    torch.manual_seed(0)
    model = Net()
    sparsifier = sparsifier_of(model, recipe("constant", 3, grow=grow), **options)
    heard = []

    def skipped(step):
        return True

    with pytest.warns(UserWarning, match=f"no gradient has reached b in {at} steps") as said:
        run(sparsifier, model, 12, skipped, lambda step: heard.append(len(said)))
    assert heard.index(1) == at - 1
    assert len(said) == 1
    assert sum(sparsifier.active.values()) == round(0.2 * sparsifier.size)


def test_layers_that_had_one_are_not_said():
    torch.manual_seed(0)
    model = Net()
    sparsifier = sparsifier_of(model, recipe("constant", 3, grow="gradient"))
    run(sparsifier, model, 6, lambda step: step != 2)  # a warning is an error here
    assert sparsifier.updates == 2


def test_an_update_that_nobody_could_join_is_none():
    torch.manual_seed(0)
    model = Net()
    updates = []
    sparsifier = sparsifier_of(model, recipe("constant", 3, grow="gradient"), on_update=updates.append)
    draw = torch.Generator().manual_seed(0)
    for step in range(1, 7):
        sparsifier.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 32, generator=draw)), torch.zeros(16).long())
        loss.backward()
        if step == 3:
            for layer in sparsifier.layers.values():
                layer.weight.grad = None
        sparsifier.step()
    assert [report.step for report in updates] == [6]
    assert sparsifier.history == updates
