"""Positions that a structure removes for good: the support shrinks, weights grow elsewhere, nothing comes back."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Infeasible, Recipe, StrategyError
from dstbench.core.network.couplings import couplings
from dstbench.core.training.support import Removal
from fakes.engine import assert_masked, recipe, settle, sgd, train

IMAGES = (4, 3, 8, 8)


def pair(seed=0):
    """Two convolutions, of which the first feeds the second, and a classifier: 108 + 180 + 20 weights."""
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    return settle(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)), seed)


@dataclass(frozen=True)
class Cut:
    """Removes channel after channel of the first convolution, one an event."""

    at: tuple[int, ...] = (3, 5)

    def events(self, clock):
        return clock.step in self.at

    def support(self, layers, couplings, clock):
        gone = sum(step <= clock.step for step in self.at)
        rows, columns = (torch.ones_like(layers[name].mask) for name in ("0", "3"))
        rows[:gone], columns[:, :gone] = False, False
        return {"0": rows, "3": columns}


def sparsify(structure, model=None, density=0.4, total_steps=12, **options):
    model = pair() if model is None else model
    parts = {"schedule": {"name": "constant", "delta_t": 4}, "grow": "gradient", **options}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    method = Recipe(structure=structure, **parts)
    return model, dstbench.Sparsifier(model, optimizer, method, density, total_steps=total_steps)


def test_what_is_removed_stays_zero_and_grows_elsewhere():
    model, sparsifier = sparsify(Cut())
    wanted, seen = round(0.4 * sparsifier.size), {}
    assert sparsifier.size == 308

    def check():
        assert_masked(sparsifier)
        for name, support in sparsifier.support.items():
            assert not (sparsifier.masks[name] & ~support).any()
        assert sum(sparsifier.active.values()) == sum(sparsifier.budget.values())
        seen[sparsifier.steps] = (
            sum(sparsifier.active.values()),
            sum(map(int, map(torch.sum, sparsifier.support.values()))),
        )

    train(model, sparsifier, 12, shape=IMAGES, after=check)
    assert [removal.step for removal in sparsifier.removals] == [3, 5]
    assert [removal.removed for removal in sparsifier.removals] == [27 + 45, 27 + 45]
    assert seen[3][0] < wanted == seen[4][0]  # at the next update the network is back at its density
    assert seen[5][0] < wanted == seen[8][0]
    assert seen[12][1] == (108 + 180) - 2 * 72
    first = sparsifier.removals[0]
    assert first == Removal(3, 72, wanted - seen[3][0], seen[3][0], 308 - 72)
    assert [report.step for report in sparsifier.history] == [4, 8]
    assert not sparsifier.masks["0"][:2].any()
    assert not sparsifier.masks["3"][:, :2].any()


def test_on_a_common_step_the_removal_comes_first():
    model, sparsifier = sparsify(Cut(at=(4,)))
    train(model, sparsifier, 4, shape=IMAGES)
    assert (sparsifier.removals[0].step, sparsifier.history[0].step) == (4, 4)
    assert sparsifier.removals[0].active < sparsifier.history[0].active == round(0.4 * 308)
    assert not sparsifier.masks["0"][:1].any()


def test_layers_that_can_no_longer_hold_their_share_pass_it_on():
    """Layer by layer: two of four channels gone leave room for 54 + 90 + 20 weights, and 154 are wanted."""
    model, sparsifier = sparsify(Cut(at=(1, 2)), density=0.5)
    before = dict(sparsifier.allocation)
    train(model, sparsifier, 4, shape=IMAGES)
    assert sum(sparsifier.active.values()) == 154
    assert before["0"] > 54
    assert sparsifier.active == {"0": 54, "3": 80, "7": 20}


def test_a_density_that_the_support_can_not_hold_is_infeasible_with_the_figures():
    model, sparsifier = sparsify(Cut(at=(1, 2)), density=0.6)
    with pytest.raises(Infeasible, match=r"density 0.6: 185 weights are asked for, and 164 of 308"):
        train(model, sparsifier, 4, shape=IMAGES)


def test_a_layer_that_lost_all_its_weights_gets_one_back():
    model, sparsifier = sparsify(Cut(at=(2,)), density=0.4, grow={"name": "gradient", "share": "global"})
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    masks["0"] = torch.zeros_like(masks["0"])
    masks["0"][0] = True
    sparsifier.set_masks(masks)
    with torch.no_grad():
        for name, layer in sparsifier.layers.items():
            layer.weight.mul_(masks[name])
    budget = {name: int(mask.sum()) for name, mask in masks.items()}
    sparsifier.evolution.state = replace(
        sparsifier.state, books=replace(sparsifier.state.books, budget=budget)
    )
    train(model, sparsifier, 3, shape=IMAGES)
    assert sparsifier.active["0"] == 0
    train(model, sparsifier, 4, shape=IMAGES, skip=3)
    assert sparsifier.active["0"] >= 1


@pytest.mark.parametrize("step", [0, 2, 3, 4, 5, 8])
def test_a_resumed_training_is_bit_for_bit_the_same(step, tmp_path):
    model, sparsifier = sparsify(Cut())
    train(model, sparsifier, step, shape=IMAGES)
    parts = (model, sparsifier.optimizer, sparsifier)
    torch.save([copy.deepcopy(part.state_dict()) for part in parts], tmp_path / "state.pt")
    train(model, sparsifier, 12, skip=step, shape=IMAGES)
    again, resumed = sparsify(Cut(), pair(1))
    for part, state in zip(
        (again, resumed.optimizer, resumed), torch.load(tmp_path / "state.pt"), strict=True
    ):
        part.load_state_dict(state)
    train(again, resumed, 12, skip=step, shape=IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert (resumed.removals, resumed.history) == (sparsifier.removals, sparsifier.history)
    assert resumed.support.keys() == sparsifier.support.keys() == {"0", "3"}
    assert all(torch.equal(mask, resumed.support[name]) for name, mask in sparsifier.support.items())


@dataclass(frozen=True)
class Broken:
    """Returns what it was made of, by step."""

    what: str

    def events(self, clock):
        return clock.step in (1, 2)

    def support(self, layers, couplings, clock):
        mask = layers["0"].mask
        ones, none = torch.ones_like(mask), torch.zeros_like(mask)
        half = ones.clone()
        half[0] = False
        if clock.step == 0:
            return {"0": half} if self.what == "early" else {}
        return {
            "grows": {"0": half if clock.step == 1 else ones},
            "empty": {"0": none},
            "unknown": {"conv": ones},
            "shape": {"0": ones[:2]},
            "dtype": {"0": half.float()},
        }[self.what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("early", "nothing can be removed before the first step"),
        ("grows", "a support may only shrink"),
        ("empty", "nothing is left of it"),
        ("unknown", "layer 'conv': there is no such layer"),
        ("shape", r"expected bool \(4, 3, 3, 3\), got torch.bool \(2, 3, 3, 3\)"),
        ("dtype", "got torch.float32"),
    ],
)
def test_a_broken_support_is_named(what, message):
    def run():
        model, sparsifier = sparsify(Broken(what))
        train(model, sparsifier, 3, shape=IMAGES)

    with pytest.raises(StrategyError, match=rf"Broken.*{message}"):
        run()


def test_removals_that_no_update_follows_are_refused_at_once():
    with pytest.raises(Infeasible, match=r"Cut.*until step 9, and the last topology update.*is at step 8"):
        sparsify(Cut(at=(3, 9)))
    with pytest.raises(Infeasible, match=r"at step 0"):
        sparsify(Cut(at=(3,)), schedule="never")


def test_a_network_that_can_not_be_followed_is_infeasible():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x):
            return self.one(x) if x.sum() > 0 else x

    model = Dynamic()
    with pytest.raises(Infeasible, match="followed through Dynamic: the model can't be traced"):
        dstbench.Sparsifier(model, sgd(model), Recipe(structure=Cut()), 0.5, total_steps=9)


def test_couplings_name_producer_norms_and_consumers():
    [first, second] = couplings(pair(), ("0", "3", "7"))
    assert (first.producers, first.norms, first.consumers) == (("0",), ("1",), ("3",))
    assert (second.producers, second.norms, second.consumers) == (("3",), (), ("7",))
    assert [each.producers for each in couplings(pair(), ("0", "3"))] == [
        ("0",)
    ]  # the classifier isn't masked


def test_methods_without_a_support_never_look_at_the_network():
    model = pair()
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe(), 0.4, total_steps=9)
    train(model, sparsifier, 9, shape=IMAGES)
    assert (sparsifier.support, sparsifier.removals) == ({}, [])
