"""Optimizers tried on tiny weights: a new weight's state, zeros that stay, and steps that read other weights."""

import re
import time

import pytest
import timm.optim
import torch
from torch import nn

import dstbench
from dstbench.core.storage import fastest, seen
from dstbench.core.storage.conduct import conduct
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, chain_net, mlp, recipe, train
from fakes.executions import Offering


class Coded(torch.optim.Optimizer):
    """Momentum in bytes around 128, with one scale for all."""

    def __init__(self, params, lr=0.05, bound="code"):
        self.bound = bound  # not a setting that groups hold
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p]
                momentum = 0.9 * (held[self.bound].float() - 128) / 127 * held["scale"] if held else 0 * p
                momentum += p.grad
                held["scale"] = momentum.abs().max()
                held[self.bound] = (momentum / held["scale"].clamp_min(1e-12) * 127 + 128).round().byte()
                p.sub_(group["lr"] * momentum)


class Counting(torch.optim.SGD):
    """Counts the steps of each entry: no value of it means nothing."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["age"] = self.state[p].get("age", torch.zeros(p.shape, dtype=torch.int32)) + 1


class Packed(torch.optim.SGD):
    """Two entries a byte."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["nibbles"] = torch.zeros(p.numel() // 2, dtype=torch.uint8)


def of(make):
    optimizer = make(mlp().parameters())
    return conduct(optimizer, optimizer.param_groups[0])


def timm_s(name):
    return lambda p: timm.optim.create_optimizer_v2(list(p), opt=name, lr=0.1)


NEUTRAL = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9), {}),
    "adamw amsgrad": (lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True), {}),
    "rprop": (lambda p: torch.optim.Rprop(p, lr=0.25), {"step_size": 0.25}),
    "adagrad": (lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.5), {"sum": 0.5}),
    "asgd": (torch.optim.ASGD, {}),
    "timm's rmsprop": (timm_s("rmsproptf"), {"square_avg": 1.0}),  # before its first decay, to 0.9
    "coded": (Coded, {"code": 128}),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_new_weights_state_is_what_the_optimizer_starts_with(name):
    make, expected = NEUTRAL[name]
    assert of(make).neutral == expected


@pytest.mark.parametrize(
    ("make", "still", "condensed", "compact"),
    [
        (
            lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, nesterov=True, weight_decay=0.1),
            True,
            True,
            True,
        ),
        (lambda p: torch.optim.AdamW(p, lr=0.0, fused=True), True, True, True),
        (torch.optim.RAdam, True, True, True),
        (torch.optim.LBFGS, False, True, False),
        (torch.optim.Adafactor, True, False, False),
        (lambda p: torch.optim.Muon([q for q in p if q.ndim == 2]), False, False, False),
        (timm_s("lion"), True, True, True),
        (timm_s("lars"), True, True, True),
        (timm_s("lamb"), True, True, False),  # norms of active weights are those among zeros
        (timm_s("adamp"), True, False, False),
        (timm_s("sgdp"), True, False, False),
        (Coded, True, True, False),
    ],
)
def test_what_an_optimizer_does_is_seen_whatever_its_learning_rate(make, still, condensed, compact):
    found = of(make)
    assert (found.still, found.condensed, found.compact) == (still, condensed, compact)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "coded"])
def test_trying_leaves_everything_as_it_was(name):
    model = mlp()
    optimizer = NEUTRAL[name][0](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)  # it puts a step of its own before the class's
    heard = []
    optimizer.register_step_pre_hook(lambda *_: heard.append(1))
    optimizer.random = torch.Generator().manual_seed(4)
    for values in optimizer.state.values():
        values["sum"] += 1
    before = [p.detach().clone() for p in model.parameters()]
    states = [{k: torch.as_tensor(v).clone() for k, v in s.items()} for s in optimizer.state.values()]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    conduct(optimizer, optimizer.param_groups[0])
    assert torch.rand(1) == expected
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))
    for old, new in zip(states, optimizer.state.values(), strict=True):
        assert all(torch.equal(old[key], torch.as_tensor(new[key])) for key in old | new)
    assert heard == []
    assert (scheduler.last_epoch, optimizer.param_groups[0]["params"][0] is model[0].weight) == (0, True)


@pytest.mark.parametrize("name", ["rprop", "adagrad", "timm's rmsprop", "coded"])
def test_grown_weights_start_as_the_optimizer_would(name):
    model = mlp()
    make, neutral = NEUTRAL[name]
    optimizer = make(model.parameters())
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe("constant", 5), 0.2, total_steps=100)
    [(key, value)] = neutral.items()
    before, fresh = dict(sparsifier.masks), 0

    def check():
        nonlocal fresh
        for layer, mask in sparsifier.masks.items():
            weight, grown = sparsifier.layers[layer].weight, mask & ~before[layer]
            assert not weight.detach()[~mask | grown].any()
            assert (optimizer.state[weight][key][grown] == value).all()
            fresh += int(grown.sum())
        before.update(sparsifier.masks)

    train(model, sparsifier, 30, after=check)
    assert fresh > 100


def test_a_learning_rate_that_falls_is_the_one_a_new_weight_starts_with():
    model = mlp()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.2)
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe("constant", 5), 0.2, total_steps=100)
    train(model, sparsifier, 4)
    optimizer.param_groups[0]["lr"] = 0.05
    before = sparsifier.masks["0"].clone()
    train(model, sparsifier, 5, skip=4)
    fresh = sparsifier.masks["0"] & ~before
    assert fresh.any()
    assert torch.allclose(optimizer.state[model[0].weight]["step_size"][fresh], torch.tensor(0.05))


def test_growth_under_rprop_is_alive():
    model = mlp()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe("constant", 10), 0.2, total_steps=50)
    train(model, sparsifier, 9)
    before = sparsifier.masks["2"].clone()
    train(model, sparsifier, 19, skip=9)
    grown = sparsifier.masks["2"] & ~before
    assert grown.any()
    assert model[2].weight.detach()[grown].abs().median() > 0.01  # it was 3e-5 from steps of zero


@pytest.mark.parametrize(("kind", "state"), [(Counting, "age"), (Packed, "nibbles")])
def test_codes_that_mean_nothing_are_refused_by_name_before_anything_changes(kind, state):
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(BadInput, match=f"optimizer: {kind.__name__} keeps '{state}' in codes"):
        dstbench.Sparsifier(model, kind(model.parameters(), lr=0.1), recipe(), 0.2, total_steps=10)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def hidden(model):
    return [p for p in model.parameters() if p.ndim == 2]


REFUSED = {
    "Muon": lambda m: torch.optim.Muon(hidden(m), lr=0.02),
    "AdamP": lambda m: timm_s("adamp")(hidden(m)),
    "Adafactor": lambda m: torch.optim.Adafactor(hidden(m)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_read_other_weights_train_masked_and_nothing_else(name):
    def made(storage):
        model = mlp()
        method = dstbench.api.Recipe(structure=Offering(), schedule={"name": "constant", "delta_t": 4})
        example = torch.zeros(8, 12)
        return model, dstbench.Sparsifier(
            model, REFUSED[name](model), method, 0.3, total_steps=24, storage=storage, example_input=example
        )

    model, sparsifier = made("masked")
    train(model, sparsifier, 12, after=lambda: assert_masked(sparsifier))
    assert sparsifier.history[-1].grown > 0
    with pytest.raises(BadInput, match=f"'condensed' would train something else than 'masked' under {name}"):
        made("condensed")


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_compact_refuses_steps_that_depend_on_what_is_cut_out(name):
    model = chain_net()
    structure = {"name": "emergent_channel", "channel_sparsity": 0.5, "delta_t": 2, "stop": 0.7}
    method = dstbench.api.Recipe(structure=structure, schedule={"name": "constant", "delta_t": 2})
    optimizer = timm_s(name)(model.parameters())
    with pytest.raises(BadInput, match="storage: 'compact' would train something else"):
        dstbench.Sparsifier(model, optimizer, method, 0.3, total_steps=16, storage="compact")


@pytest.mark.parametrize("name", ["rprop", "adagrad", "timm's rmsprop"])
def test_condensed_growth_starts_as_masked_does(name, monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
    states = []
    for storage in ("masked", "condensed"):
        model = mlp()
        optimizer = NEUTRAL[name][0](model.parameters())
        method = dstbench.api.Recipe(structure=Offering(), schedule={"name": "constant", "delta_t": 4})
        sparsifier = dstbench.Sparsifier(
            model, optimizer, method, 0.3, total_steps=24, storage=storage, example_input=torch.zeros(8, 12)
        )
        for images, labels in batches(9):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            sparsifier.step()
        states.append((sparsifier.masks, model.state_dict(), optimizer.state_dict()["state"]))
    (masks, weights, state), (other_masks, other_weights, other_state) = states
    assert all(torch.equal(masks[layer], other_masks[layer]) for layer in masks)
    assert all(torch.allclose(weights[key], other_weights[key], atol=1e-5) for key in weights)
    for index, layer in ((0, "0"), (2, "2"), (4, "4")):
        for key, value in state[index].items():
            active = masks[layer] if value.shape == masks[layer].shape else ...
            torch.testing.assert_close(other_state[index][key][active], value[active], rtol=1e-4, atol=1e-5)


class Growing(torch.optim.SGD):
    """Its steps need more time with every power of a weight's width, as contractions in a bad order do."""

    widest = 0

    def step(self, closure=None):
        loss = super().step(closure)
        width = max(self.param_groups[0]["params"][0].shape)
        Growing.widest = max(Growing.widest, width)
        end = time.process_time() + (0.2 if width >= 32 else 0)
        while time.process_time() < end:
            pass
        return loss


def test_an_optimizer_whose_steps_take_too_long_is_refused_by_name_with_the_reason():
    model = nn.Sequential(nn.Linear(128, 128))
    optimizer = Growing(model.parameters(), lr=0.1)
    why = r"a step of a weight of \(32,.*takes .* s, too long to be tried"
    assert re.search(why, conduct(optimizer, optimizer.param_groups[0]).failure)
    assert Growing.widest == 32  # nothing larger was tried
    recipe = {"structure": "channel", "grow": "gradient"}
    with pytest.raises(BadInput, match=f"under Growing.*{why}"):
        dstbench.Sparsifier(model, optimizer, recipe, 0.5, total_steps=10, storage="compact")


def test_one_with_equal_settings_is_not_tried_again_and_one_with_others_is(monkeypatch):
    tried = []
    monkeypatch.setattr(seen, "_seen", {})
    monkeypatch.setattr(seen, "conduct", lambda *given: tried.append(given) or conduct(*given))

    class Own(torch.optim.Rprop):
        """Anyone's may do anything."""

    def times(lr=0.5, kind=torch.optim.Rprop, width=4):
        tried.clear()
        optimizer = kind(nn.Linear(4, width).parameters(), lr=lr)
        assert seen.known_conduct(optimizer, optimizer.param_groups[0]).neutral == {"step_size": lr}
        return len(tried)

    assert [times(), times(), times(0.25), times(width=5), times(), times(kind=Own), times(kind=Own)] == [
        1, 0, 1, 1, 0, 1, 1,
    ]  # fmt: skip
    rate = torch.tensor(0.5)  # it may change in place
    assert [times(rate), times(rate)] == [1, 1]
