"""Any optimizer: inactive weights and state stay exactly zero, parameters keep their storage."""

import pytest
import torch
from torch import nn

import dstbench
from fakes.engine import assert_masked, batches, conv_net, mlp, recipe, sgd, train

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=1e-3),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adadelta": lambda p: torch.optim.Adadelta(p),
}


def sparsify(model, optimizer, density=0.2, total_steps=24, **options):
    options.setdefault("recipe", recipe())
    return dstbench.Sparsifier(model, optimizer, density=density, total_steps=total_steps, **options)


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inactive_weights_and_all_their_state_are_exactly_zero(name, grow):
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = sparsify(model, optimizer, recipe=recipe(grow=grow))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, sparsifier, 24, after=lambda: assert_masked(sparsifier))
    assert len(sparsifier.history) == 5
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw fused", "rmsprop"])
def test_sparsimony_bug_1_grown_weights_are_zero_with_cleared_state(name):
    """Stale values and moments planted behind the masks, as a dense optimizer leaves them there."""
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = sparsify(model, optimizer, recipe=recipe("constant", 5))
    train(model, sparsifier, 4)
    masks = {n: mask.clone() for n, mask in sparsifier.masks.items()}
    moments = {}
    for layer_name, layer in sparsifier.layers.items():
        with torch.no_grad():
            layer.weight[~masks[layer_name]] = 0.5
            for value in optimizer.state[layer.weight].values():
                if torch.is_tensor(value) and value.shape == layer.weight.shape:
                    value[~masks[layer_name]] = 0.5
    train(model, sparsifier, 5, skip=4)
    assert sparsifier.history[-1].grown > 20
    for layer_name, layer in sparsifier.layers.items():
        grown = sparsifier.masks[layer_name] & ~masks[layer_name]
        assert grown.any()
        assert not layer.weight.detach()[grown].any()
        moments |= {
            (layer_name, key): value
            for key, value in optimizer.state[layer.weight].items()
            if torch.is_tensor(value) and value.shape == layer.weight.shape
        }
        assert not any(value[grown].any() for (n, _), value in moments.items() if n == layer_name)
    assert moments
    assert_masked(sparsifier)


def test_dsr_bug_18_dropped_and_regrown_later_starts_from_nothing():
    """Momentum of an earlier life is gone when a position comes back in a later update."""
    model = mlp()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    sparsifier = sparsify(model, optimizer, 0.5, recipe=recipe("constant", 1))
    weight = sparsifier.layers["0"].weight
    alive = sparsifier.masks["0"].clone()
    reborn = 0

    def check():
        nonlocal alive, reborn
        fresh = sparsifier.masks["0"] & ~alive
        reborn += int((fresh & sparsifier.topology.explored["0"]).sum())
        assert not weight.detach()[fresh].any()
        assert not optimizer.state[weight]["momentum_buffer"][fresh].any()
        alive = sparsifier.masks["0"].clone()

    train(model, sparsifier, 20, after=check)
    assert reborn > 50


def test_a_weight_dropped_and_regrown_in_one_update_keeps_value_and_state():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sparsify(model, optimizer, 1.0, recipe=recipe("constant", 1, grow="gradient"))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))
    model[0].weight.grad = torch.full((2, 2), 0.5)
    sparsifier.step()
    assert torch.equal(model[0].weight, torch.tensor([[0.95, 1.95], [2.95, 3.95]]))
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], torch.full((2, 2), 0.5))
    assert (sparsifier.history[0].grown, sparsifier.history[0].dropped) == (0, 0)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw fused"])
def test_itop_bug_17_parameters_keep_their_storage(name):
    model = conv_net()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = sparsify(model, optimizer, 0.4, recipe=recipe(structure="channel", schedule="constant"))
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.data_ptr() for tensor in tensors]
    train(model, sparsifier, 12, shape=(4, 3, 8, 8))
    assert sparsifier.history[-1].grown > 0
    assert [tensor.data_ptr() for tensor in tensors] == before
    state = [
        value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)
    ]
    kept = [value.data_ptr() for value in state]
    train(model, sparsifier, 24, skip=12, shape=(4, 3, 8, 8))
    assert [value.data_ptr() for value in state] == kept


# Optimizers that move what has no gradient


class Drifting(torch.optim.SGD):
    """Adds noise to every weight, gradient or not, from its second step on."""

    quiet = 0

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.quiet -= 1
        if self.quiet < 0:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(0.01)


@pytest.mark.parametrize("schedule", ["never", "constant"])
@pytest.mark.parametrize("quiet", [0, 5, 19], ids=lambda n: f"{n} steps late")
def test_an_optimizer_that_moves_inactive_weights_never_gets_through(schedule, quiet):
    """Warming up from zero, say, may hide for a while what it does."""
    model = mlp()
    optimizer = Drifting(model.parameters(), lr=0.05, momentum=0.9)
    optimizer.quiet = quiet
    sparsifier = sparsify(model, optimizer, recipe=recipe(schedule))
    train(model, sparsifier, 24, after=lambda: assert_masked(sparsifier))


# Steps within steps


class Nested(torch.optim.SGD):
    """A subclass whose step calls its parent's, which torch has hooked as well: hooks run twice."""

    @torch.no_grad()
    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize("closure", [False, True])
def test_a_step_inside_a_step_counts_once(closure):
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # hooks SGD.step itself
    model, plain = mlp(), mlp()
    nested = sparsify(
        model, Nested(model.parameters(), lr=0.05, momentum=0.9), recipe=recipe(grow="gradient")
    )
    single = sparsify(
        plain, torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9), recipe=recipe(grow="gradient")
    )
    for images, labels in batches(12):
        for net, sparsifier in ((model, nested), (plain, single)):

            def backward(net=net, images=images, labels=labels):
                net.zero_grad()
                loss = nn.functional.cross_entropy(net(images), labels)
                loss.backward()
                return loss

            if closure:
                with torch.enable_grad():
                    sparsifier.step(backward)
            else:
                backward()
                sparsifier.step()
    assert nested.steps == single.steps == 12
    assert all(torch.equal(nested.masks[name], single.masks[name]) for name in single.masks)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_step_that_raised_does_not_stop_the_counting():
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of memory")
            super().step(closure)

    model = mlp()
    optimizer = Failing(model.parameters(), lr=0.05)
    sparsifier = sparsify(model, optimizer, recipe=recipe("constant", 2))
    for step, (images, labels) in enumerate(batches(6)):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.fails = step == 3
        if optimizer.fails:
            with pytest.raises(RuntimeError, match="memory"):
                sparsifier.step()
        else:
            sparsifier.step()
        optimizer.zero_grad()
    assert sparsifier.steps == 5
    assert [report.step for report in sparsifier.history] == [2, 4]


def test_sparsimony_bug_2_any_subclass_will_do():
    class Mine(torch.optim.RMSprop):
        pass

    model = mlp()
    sparsifier = sparsify(model, Mine(model.parameters(), lr=0.01))
    train(model, sparsifier, 6, after=lambda: assert_masked(sparsifier))
    assert sparsifier.steps == 6


def test_several_parameter_groups():
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = torch.optim.AdamW([*groups, {"params": model[4].parameters(), "weight_decay": 0.0}], lr=0.01)
    sparsifier = sparsify(model, optimizer)
    train(model, sparsifier, 12, after=lambda: assert_masked(sparsifier))


def test_detaching_stops_everything():
    model = mlp()
    optimizer = sgd(model)
    sparsifier = sparsify(model, optimizer)
    train(model, sparsifier, 4)
    sparsifier.detach()
    train(model, sparsifier, 12, skip=4)
    assert sparsifier.steps == 4
    assert model[0].weight.count_nonzero() > sparsifier.active["0"]
