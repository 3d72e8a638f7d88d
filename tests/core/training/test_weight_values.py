"""What a method's values come to on live weights: at the start, where weights grow, and in learning rates."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import LayerView, Policy, StrategyError, ValuePolicy
from dstbench.core.storage import fastest
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, mlp, recipe, sgd, train
from fakes.executions import Offering


@dataclass(frozen=True)
class Sevens:
    """Weights start at 7 and grow at -7; the second layer learns at a tenth."""

    def initial(self, layer: LayerView, rng: torch.Generator) -> torch.Tensor:
        return torch.full_like(layer.weight, 7.0)

    def grown(self, layer: LayerView, rng: torch.Generator) -> torch.Tensor:
        return torch.full_like(layer.weight, -7.0)

    def lr_scale(self, layer: object, density: float) -> float:
        return 0.1 if layer.name == "2" else 1.0


@dataclass(frozen=True)
class Half:
    """A pull of 0.5 on every gradient."""

    def pull(self, layer: LayerView, rng: torch.Generator) -> torch.Tensor:
        return torch.full_like(layer.weight, 0.5)


def made(values, optimizer=None, schedule="never", structure="unstructured", **options):
    model = mlp()
    optimizer = sgd(model, momentum=0.0, weight_decay=0.0) if optimizer is None else optimizer(model)
    return model, dstbench.Sparsifier(
        model,
        optimizer,
        recipe(schedule, 2, structure=structure),
        density=0.4,
        total_steps=20,
        values=values,
        **options,
    )


def test_active_weights_start_with_what_the_values_say_and_inactive_ones_stay_zero():
    model, sparsifier = made(Sevens())
    for name, mask in sparsifier.masks.items():
        weight = model.get_submodule(name).weight
        assert torch.equal(weight.detach(), mask * 7.0)


def test_grown_weights_hold_what_the_values_say_and_survivors_what_they_had():
    model, sparsifier = made(Sevens(), schedule="constant")
    train(model, sparsifier, 1)
    before = sparsifier.masks
    held = {name: model.get_submodule(name).weight.detach().clone() for name in before}
    images, labels = next(batches(1, seed=5))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    nn.functional.cross_entropy(model(images), labels).backward()
    sparsifier.optimizer.param_groups[0]["lr"] = 0.0
    sparsifier.step()
    assert sparsifier.history[-1].grown > 0
    for name, mask in sparsifier.masks.items():
        weight = model.get_submodule(name).weight.detach()
        assert (weight[mask & ~before[name]] == -7).all()
        assert torch.equal(weight[mask & before[name]], held[name][mask & before[name]])
    assert_masked(sparsifier)


def stepped(optimizer, scales):
    """Weights behind three steps with one group, whose layers' rates a training scales, or with a group a layer."""
    model = mlp()
    layers = [module for module in model if isinstance(module, nn.Linear)]
    if scales is None:
        steps = optimizer([{"params": list(model.parameters())}])
        made = dstbench.Sparsifier(model, steps, recipe("never"), density=1.0, total_steps=9, values=Scaled())
    else:
        weights = {id(layer.weight) for layer in layers}
        steps = optimizer(
            [
                {"params": [layer.weight], "lr": 0.01 * scale}
                for layer, scale in zip(layers, scales, strict=True)
            ]
            + [{"params": [p for p in model.parameters() if id(p) not in weights]}]
        )
        made = steps
    for images, labels in batches(3):
        nn.functional.cross_entropy(model(images), labels).backward()
        made.step()
        steps.zero_grad()
    return [layer.weight.detach().clone() for layer in layers], steps


@dataclass(frozen=True)
class Scaled:
    """Rates of 4, 1 and a quarter."""

    def lr_scale(self, layer: object, density: float) -> float:
        return {"0": 4.0, "2": 1.0, "4": 0.25}[layer.name]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=0.1),
        lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    ],
)
def test_a_layers_rate_is_scaled_exactly_as_in_a_group_of_its_own(optimizer):
    ours, steps = stepped(optimizer, None)
    theirs, _ = stepped(optimizer, [4.0, 1.0, 0.25])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert len(steps.param_groups) == 1
    assert steps.param_groups[0]["lr"] == 0.01
    assert not [key for key in steps.param_groups[0] if "dstbench" in key]
    assert len(steps.state_dict()["param_groups"]) == 1


def test_a_scheduler_of_learning_rates_sees_the_groups_that_it_knows():
    model, sparsifier = made(Sevens())
    scheduler = torch.optim.lr_scheduler.StepLR(sparsifier.optimizer, 1, gamma=0.5)
    train(model, sparsifier, 3, after=scheduler.step)
    assert [group["lr"] for group in sparsifier.optimizer.param_groups] == [0.05 / 8]


def test_a_closure_gets_the_groups_as_they_are_and_steps_with_the_scaled_rates():
    model, sparsifier = made(Sevens())
    twin = mlp()
    other = dstbench.Sparsifier(
        twin, sgd(twin, momentum=0.0, weight_decay=0.0), recipe("never"), density=0.4, total_steps=20,
        values=Sevens(),
    )  # fmt: skip
    [(images, labels)] = batches(1)
    seen = []

    def closure():
        seen.append(len(sparsifier.optimizer.param_groups))
        sparsifier.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    sparsifier.step(closure)
    nn.functional.cross_entropy(twin(images), labels).backward()
    other.step()
    assert seen == [1]
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_step_that_fails_leaves_the_groups_as_they_were_for_whoever_saves_them():
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of luck")
            return super().step(closure)

    model, sparsifier = made(Scaled(), lambda model: Failing(model.parameters(), lr=0.05))
    train(model, sparsifier, 1)
    Failing.fails = True
    with pytest.raises(RuntimeError, match="out of luck"):
        train(model, sparsifier, 1)
    assert len(sparsifier.optimizer.state_dict()["param_groups"]) == 1
    assert len(sparsifier.optimizer.param_groups) == 1


def test_restarts_stop_the_step_behind_an_update_and_let_the_rate_rise():
    """Plain SGD at rate 0.05: a step moves by 0.05 · min(1, k/4) · g, k steps behind the update at 2, 4, …"""
    model, sparsifier = made({"name": "lr_restart", "n": 4}, schedule="constant")
    bias, moved = model[0].bias, []
    for images, labels in batches(4):
        nn.functional.cross_entropy(model(images), labels).backward()
        before, gradient = bias.detach().clone(), bias.grad.clone()
        sparsifier.step()
        moved.append(float(((before - bias.detach()) / gradient).median()))
        sparsifier.optimizer.zero_grad()
    assert moved == pytest.approx([0.05, 0.05, 0.0, 0.05 / 4], abs=1e-5)


def test_a_pull_joins_the_gradient_of_trained_weights_alone():
    model, sparsifier = made(Half())
    plain, other = made("keep")
    train(model, sparsifier, 1)
    train(plain, other, 1)
    for name, mask in sparsifier.masks.items():
        moved = other.weights.values[name].detach() - sparsifier.weights.values[name].detach()
        assert torch.allclose(moved[mask], torch.tensor(0.05 * 0.5), atol=1e-6)
    assert_masked(sparsifier)


def test_a_step_without_gradients_of_training_pulls_nothing():
    model, sparsifier = made(Half())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sparsifier.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert sparsifier.steps == 0


VALUES = [
    {"name": "keep", "grown": "last", "restart": "lr_restart"},
    {"name": "swi", "grown": "uniform"},
    "supar",
    "deep-r",
]


@pytest.mark.filterwarnings("ignore:values 'supar'")
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_a_checkpoint_continues_bit_for_bit(values):
    whole, sparsifier = made(values, sgd, "constant")
    train(whole, sparsifier, 9)
    model, first = made(values, sgd, "constant")
    train(model, first, 5)
    state = copy.deepcopy((model.state_dict(), first.optimizer.state_dict(), first.state_dict()))
    other, second = made(values, sgd, "constant")
    other.load_state_dict(state[0])
    second.optimizer.load_state_dict(state[1])
    second.load_state_dict(state[2])
    train(other, second, 9, skip=5)
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_copies_go_on_alike():
    model, sparsifier = made({"name": "swi", "grown": "last", "restart": "lr_restart"}, sgd, "constant")
    train(model, sparsifier, 3)
    twin, _, other = copy.deepcopy((model, sparsifier.optimizer, sparsifier))
    train(model, sparsifier, 7, skip=3)
    train(twin, other, 7, skip=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:values 'supar'")
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_condensed_trains_the_same(values, monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda layer, call, execution, example: 3.0)
    models = []
    for storage in ("masked", "condensed"):
        model, sparsifier = made(
            values, sgd, "constant", Offering(), storage=storage, example_input=torch.zeros(8, 12)
        )
        if storage == "condensed":
            assert set(sparsifier.arrangement.paths.values()) == {"scattered"}
        train(model, sparsifier, 7)
        models.append((sparsifier, {n: sparsifier.weights.logical(n).clone() for n in sparsifier.layers}))
    (masked, one), (condensed, two) = models
    for name in one:
        assert torch.equal(masked.masks[name], condensed.masks[name])
        assert torch.allclose(one[name], two[name], atol=1e-6)


def test_supar_warns_where_masks_move_and_names_an_optimizer_that_it_has_no_rule_for():
    with pytest.warns(UserWarning, match="values 'supar' correct for the density of masks that stay"):
        made("supar", schedule="constant")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made("supar")
    with pytest.raises(StrategyError, match="not for RMSprop"):
        made("supar", lambda model: torch.optim.RMSprop(model.parameters()))


@dataclass(frozen=True)
class Wrong:
    """Initial values of a kind."""

    given: object

    def initial(self, layer: LayerView, rng: torch.Generator) -> object:
        return self.given


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (3.0, "expected float .*, got float"),
        (torch.zeros(2), r"expected float .*, got torch.float32 \[2\]"),
        (torch.zeros(24, 12, dtype=torch.int64), "got torch.int64"),
        (torch.full((24, 12), torch.nan), "288 of 288 values aren't finite"),
    ],
)
def test_what_weights_cant_hold_is_refused_by_name_with_nothing_changed(given, complaint):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StrategyError, match=f"(?s)Wrong.*layer '0': .*{complaint}"):
        dstbench.Sparsifier(model, sgd(model), recipe("never"), 0.4, 20, values=Wrong(given))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("evci", "unknown values 'evci'; did you mean 'evci_unit'"),
        ({"name": "swi", "grown": "lats"}, "unknown values 'lats'; did you mean 'last'"),
        ({"name": "swi", "grow": "last"}, "unknown parameter 'grow'; did you mean 'grown'"),
        ({"name": "deep-r", "grown": "last"}, "both remember"),
        ({"name": "swi", "restart": "last"}, "no restart"),
        ({"name": "evci_unit", "fan": "fanon"}, "fan"),
    ],
)
def test_values_that_cant_be_are_refused_by_name(values, complaint):
    with pytest.raises(BadInput, match=complaint):
        made(values)


def test_a_dense_recipe_has_no_values_to_set():
    model = mlp()
    with pytest.raises(BadInput, match="values: the recipe has no masks"):
        dstbench.Sparsifier(model, sgd(model), "dense", 1.0, 20, values="swi")


def test_a_score_that_reads_a_memory_wants_values_that_have_one():
    model, complaint = mlp(), r"CrossedZero\(\) reads what the values remember .* Keep\(\) remembers nothing"
    with pytest.raises(BadInput, match=complaint):
        dstbench.Sparsifier(model, sgd(model), recipe("constant", prune="deep-r"), 0.4, 20)


def test_plain_values_are_no_part_of_an_identity():
    assert "values" not in made("keep")[1].identity.method
    assert made("swi")[1].identity.method["values"]["spec"] == {"name": "swi"}
    assert ValuePolicy().plain


@dataclass(frozen=True)
class Sinks:
    """Everything but the first position must go."""

    def __call__(self, layer: LayerView, rng: torch.Generator) -> torch.Tensor:
        scores = torch.full(layer.shape, -torch.inf)
        scores[0, 0] = 1.0
        return scores


@pytest.mark.parametrize("values", ["keep", Sevens()])
def test_what_is_removed_by_force_begins_anew_though_it_grows_at_once(values):
    """In dense layers all comes back: at zero or where the values say, and without its momentum."""
    model = mlp()
    parts = recipe("constant", 2) | {"prune": Policy(Sinks())}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 1.0, total_steps=9, values=values)
    train(model, sparsifier, 2)
    assert sparsifier.updates == 1
    for layer in sparsifier.layers.values():
        momentum = sparsifier.optimizer.state[layer.weight]["momentum_buffer"].flatten()
        weight = layer.weight.detach().flatten()
        assert weight[0] != 0
        assert momentum[0] != 0
        assert set(weight[1:].tolist()) == {0.0 if values == "keep" else -7.0}
        assert not momentum[1:].any()
