"""What builds up over steps: folded once an applied step, reset where it says so, kept by checkpoints, charged."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import LayerView, Policy, Signal, StrategyError
from dstbench.core.storage import fastest
from dstbench.errors import BadInput
from fakes.engine import chain_net, conv_net, mlp, recipe, sgd, train
from fakes.executions import Offering


@dataclass(frozen=True)
class Reads:
    """A score that ranks by one accumulator, which it may be given."""

    name: str
    accumulator: object = None

    @property
    def accumulators(self):
        return {self.name: self.accumulator or self.name}

    def __call__(self, layer, rng):
        return layer.extra[self.name].double()


@dataclass(frozen=True)
class Counts:
    """Adds one wherever a weight is active, and keeps what it was told of the clock."""

    reset: str = "never"
    window: int = 0
    needs: ClassVar[Signal] = Signal.NONE

    def fold(self, total, layer: LayerView, clock):
        return total + layer.mask + 100 * (clock.step == 1)


def two_steps(score, gradients, weight=1.0, **parts):
    """A linear layer of one weight and its accumulator after steps with these gradients, which move nothing."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    model[0].weight.data.fill_(weight)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model, lr=0.0), recipe("constant", 9) | {"prune": Policy(score)} | parts, 1.0, 100
    )
    for gradient in gradients:
        model[0].weight.grad = torch.full((1, 1), gradient)
        sparsifier.step()
    return sparsifier.evolution.foldings.totals[score.name]["0"].item()


def test_movement_by_hand():
    """w = 1, g = 0.5 and then -0.2, w unchanged: -0.5 + 0.2."""
    assert two_steps(Reads("movement"), [0.5, -0.2]) == pytest.approx(-0.3)
    assert two_steps(Reads("movement"), [0.5, -0.2], weight=-2.0) == pytest.approx(0.6)


def test_second_moment_by_hand():
    """From 0 with β = 0.9: 0.1 · 4 = 0.4, then 0.9 · 0.4 + 0.1 · 1."""
    score = Reads("second_moment", {"name": "second_moment", "beta": 0.9})
    assert two_steps(score, [2.0, -1.0]) == pytest.approx(0.46)


def test_active_count_and_the_clock():
    assert two_steps(Reads("active_count"), [1.0, 1.0, 1.0]) == 3
    assert two_steps(Reads("counts", Counts()), [1.0, 1.0]) == 102


def test_movement_reads_the_weight_that_the_step_starts_from():
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    model[0].weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    parts = recipe("constant", 9) | {"prune": "movement"}
    sparsifier = dstbench.Sparsifier(model, optimizer, parts, 1.0, 100)
    for gradient in (0.5, -0.2):  # w is 1, then 0.5
        model[0].weight.grad = torch.full((1, 1), gradient)
        sparsifier.step()
    assert sparsifier.evolution.foldings.totals["movement"]["0"].item() == pytest.approx(-0.5 + 0.2 * 0.5)


def test_a_window_folds_the_last_steps_before_an_update_and_costs_a_dense_gradient_then_alone():
    model = mlp()
    seen = []
    parts = recipe("constant", 4, grow={"name": "gradient-sum", "window": 2})
    sparsifier = dstbench.Sparsifier(model, sgd(model, lr=0.0), parts, 0.5, total_steps=12)
    totals = sparsifier.evolution.foldings.totals["gradient_sum"]
    expected = {}

    def look():
        totals = sparsifier.evolution.foldings.totals["gradient_sum"]
        seen.append((sparsifier.steps, sparsifier.dense_gradient, bool(totals)))

    assert totals == {}
    train(model, sparsifier, 12, after=look)
    expected = [(s, s % 4 in (3, 0) and s < 12 - 3, s in (3, 7)) for s in range(1, 13)]
    assert seen == expected  # reset behind updates 4 and 8; none follows


def test_a_sum_of_gradients_is_that_of_its_window():
    """Three steps whose gradients are 1, 2 and 4 everywhere: a window of 2 grows by 6."""
    model, grown = nn.Sequential(nn.Linear(2, 2, bias=False)), []

    @dataclass(frozen=True)
    class Spy:
        accumulators: ClassVar[dict] = {"g": {"name": "gradient_sum", "window": 2}}

        def __call__(self, layer, rng):
            grown.append(layer.extra["g"].clone())
            return layer.extra["g"]

    parts = recipe("constant", 3) | {"grow": Policy(Spy())}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=9)
    for gradient in (1.0, 2.0, 4.0):
        model[0].weight.grad = torch.full((2, 2), gradient)
        sparsifier.step()
    assert len(grown) == 1
    assert torch.equal(grown[0], torch.full((2, 2), 6.0))


@pytest.mark.parametrize("reset", ["never", "grown", "update"])
def test_resets(reset):
    """Behind an update a total is as it was, begins anew where a weight was grown, or everywhere."""
    model = mlp()
    parts = recipe("constant", 3) | {"prune": Policy(Reads("n", Counts(reset)))}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=20)
    train(model, sparsifier, 2)
    before = dict(sparsifier.masks)
    train(model, sparsifier, 3, skip=2)
    assert sparsifier.updates == 1
    totals = sparsifier.evolution.foldings.totals["n"]
    if reset == "update":
        assert totals == {}
        return
    grown = {name: mask & ~before[name] for name, mask in sparsifier.masks.items()}
    assert sum(int(mask.sum()) for mask in grown.values()) > 0
    for name, total in totals.items():
        fresh = 0 if reset == "grown" else 100
        assert (total[grown[name]] == fresh).all()
        assert (total[~grown[name]] >= 100).all()


def test_a_skipped_step_leaves_nothing():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parts = recipe("constant", 9) | {"prune": Policy(Reads("n", Counts()))}
    sparsifier = dstbench.Sparsifier(model, optimizer, parts, 1.0, total_steps=20)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in (True, False):
        scaler.scale(model(torch.randn(4, 12)).square().sum()).backward()
        if overflow:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert sparsifier.steps == 1
    assert (sparsifier.evolution.foldings.totals["n"]["0"] == 101).all()


@pytest.mark.parametrize("prune", ["obd", "movement", "wanda"])
def test_checkpoints_continue_exactly(prune):
    parts = recipe("constant", 4, prune=prune, grow={"name": "gradient-sum", "window": 3})
    if prune == "wanda":
        parts["prune"] = {"name": "wanda", "window": 3}

    def fresh():
        model = mlp()
        return model, sgd(model, momentum=0.0), parts

    def made():
        model, optimizer, parts = fresh()
        return model, dstbench.Sparsifier(model, optimizer, parts, 0.3, total_steps=16)

    model, sparsifier = made()
    train(model, sparsifier, 6)
    saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
    train(model, sparsifier, 14, skip=6)
    again, resumed = made()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(again, resumed, 14, skip=6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert resumed.history == sparsifier.history
    for name, totals in sparsifier.evolution.foldings.totals.items():
        assert all(torch.equal(t, resumed.evolution.foldings.totals[name][n]) for n, t in totals.items())


def test_copies_go_their_own_way():
    model = conv_net()
    optimizer = sgd(model)
    parts = recipe("constant", 3, prune={"name": "wanda", "window": 2})
    sparsifier = dstbench.Sparsifier(model, optimizer, parts, 0.5, total_steps=20)
    train(model, sparsifier, 2, shape=(4, 3, 8, 8))
    other, _, follower = copy.deepcopy((model, optimizer, sparsifier))
    for network, its in ((model, sparsifier), (other, follower)):
        train(network, its, 9, shape=(4, 3, 8, 8), skip=2)  # step 10 is in no window
    assert all(torch.equal(mask, follower.masks[name]) for name, mask in sparsifier.masks.items())
    assert not any(module._forward_hooks for module in (*model.modules(), *other.modules()))


def test_what_others_load_is_refused_by_name():
    model = mlp()
    parts = recipe("constant", 9) | {"prune": "movement"}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=20)
    train(model, sparsifier, 2)
    saved = sparsifier.state_dict()
    saved["totals"]["movement"]["0"] = torch.zeros(3, 3)
    with pytest.raises(BadInput, match=r"totals\.movement\.0: expected \[24, 12\], got \[3, 3\]"):
        sparsifier.load_state_dict(saved)
    saved["totals"]["movement"] = {"9": torch.zeros(3, 3)}
    with pytest.raises(BadInput, match=r"totals\.movement: there is no layer '9'"):
        sparsifier.load_state_dict(saved)


def refused(part, match, error=BadInput, **more):
    model = mlp()
    with pytest.raises(error, match=match):
        dstbench.Sparsifier(
            model, sgd(model), recipe("constant", 3) | part, 0.5, total_steps=9, **more
        )  # fmt: skip


def test_mistakes_are_named():
    refused({"prune": Policy(Reads("n", {"name": "second_momnt"}))}, "second_momnt.*second_moment")
    refused({"prune": Policy(Reads("n", 3))}, "accumulator 'n': expected an Accumulator")
    refused({"prune": Policy(Reads("n", Counts("grow")))}, "accumulator 'n': reset: expected one of never")
    refused({"prune": Policy(Reads("grad", Counts()))}, "'grad', which is a signal's name")
    both = {"prune": Policy(Reads("n", Counts())), "grow": Policy(Reads("n", Counts("update")))}
    refused(both, "prune and grow call two accumulators 'n'")
    condensed = {"storage": "condensed", "example_input": torch.zeros(2, 12)}
    refused({"prune": "wanda"}, "condensed.*'input_norm'", **condensed)


def test_a_fold_that_breaks_its_contract_is_named():
    @dataclass(frozen=True)
    class Wrong:
        def fold(self, total, layer, clock):
            return total.flatten()

    model = mlp()
    parts = recipe("constant", 3) | {"prune": Policy(Reads("odd", Wrong()))}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=9)
    with pytest.raises(StrategyError, match=r"accumulator 'odd', layer '0': expected \[24, 12\]"):
        train(model, sparsifier, 1)


def test_condensed_storage_folds_as_masked_does(monkeypatch):
    """Active gradients and windows of dense ones: the same masks whatever holds the weights."""
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
    parts = recipe("constant", 3, prune="obd", grow={"name": "gradient-sum", "window": 2})
    masks = []
    for storage in ("masked", "condensed"):
        model = mlp(sizes=(32, 64, 4))
        more = {"storage": storage, "example_input": torch.zeros(8, 32)} if storage == "condensed" else {}
        parts["structure"] = Offering()
        sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.25, total_steps=12, **more)
        assert storage == "masked" or set(sparsifier.arrangement.paths.values()) == {"scattered"}
        train(model, sparsifier, 10, shape=(8, 32))
        masks.append(sparsifier.masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_compact_storage_folds_as_masked_does():
    """Channels that leave the network leave its totals' entries where nobody reads them: the same masks."""
    masks = []
    for storage in ("masked", "compact"):
        model = chain_net()
        parts = recipe("constant", 2, prune="obd", grow={"name": "gradient-sum", "window": 1})
        parts["structure"] = {"name": "emergent_channel", "channel_sparsity": 0.2, "delta_t": 2, "stop": 0.5}
        sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.25, total_steps=12, storage=storage)
        train(model, sparsifier, 12, shape=(4, 3, 8, 8))
        assert sparsifier.removals
        masks.append(sparsifier.masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
