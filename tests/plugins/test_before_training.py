"""Inits that score the network in rounds before training, worked out by hand or by autograd."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import dstbench
from dstbench.api import Rounds
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.engine import update
from dstbench.core.storage import fastest
from dstbench.core.training.rules import Rules
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, conv_net, mlp, recipe, sgd, train
from fakes.executions import Offering

REGISTRY = dstbench.registry()
IMAGES = (4, 3, 8, 8)


def made(model, init, density, example=None, loss=cross_entropy, data=None, **more):
    data = list(batches(2, IMAGES if example is None else tuple(example.shape))) if data is None else data
    example = torch.zeros(IMAGES) if example is None else example
    calibration = dstbench.Calibration(data, loss)
    return dstbench.Sparsifier(
        model, sgd(model), recipe("never", init=init), density, total_steps=9,
        calibration=calibration, example_input=example, **more,
    )  # fmt: skip


def scores_of(monkeypatch, build):
    """The scores of every round: {layer: [*w]}."""
    rounds, inner = [], update.score_layer

    def spy(score, layer, rng):
        values = inner(score, layer, rng)
        if not rounds or layer.name in rounds[-1]:
            rounds.append({})
        rounds[-1][layer.name] = values.clone()
        return values

    monkeypatch.setattr(update, "score_layer", spy)
    return build(), rounds


def masks_of(monkeypatch):
    """A list that gets the masks behind every round."""
    masks, inner = [], Rules.initial

    def spy(self, *arguments, **more):
        found = inner(self, *arguments, **more)
        masks.append({name: mask.clone() for name, mask in found[0].items()})
        return found

    monkeypatch.setattr(Rules, "initial", spy)
    return masks


def two_layers():
    """2-2-1 without biases."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2], [3, 4]])
    model[1].weight.data = torch.tensor([[1.0, -1]])
    return model


def test_synaptic_flow_by_hand(monkeypatch):
    """R = 10: the flows of the first layer are 1 2 3 4, of the second 3 7. Four of six stay: 3 4 / 3 7."""
    init = {"name": "synflow", "rounds": 1}
    sparsifier, rounds = scores_of(
        monkeypatch, lambda: made(two_layers(), init, 4 / 6, torch.zeros(1, 2), mse_loss)
    )
    assert rounds[0]["0"].tolist() == [[1, 2], [3, 4]]
    assert rounds[0]["1"].tolist() == [[3, 7]]
    assert rounds[0]["0"].dtype == torch.float64
    assert sparsifier.masks["0"].tolist() == [[False, False], [True, True]]
    assert sparsifier.masks["1"].tolist() == [[True, True]]


def test_synaptic_flow_is_conserved_layer_by_layer_in_every_round(monkeypatch):
    """Σ of each layer's active scores is R, whatever is masked; so no layer dies, two weights a layer being left."""
    model = mlp(sizes=(12, 24, 16, 4))
    for layer in (0, 2, 4):
        nn.init.zeros_(model[layer].bias)
    for place in (1, 3):
        model[place] = nn.ReLU()
    init = {"name": "synflow", "rounds": 20}
    density = 6 / sum(p.numel() for p in model.parameters() if p.dim() > 1)
    masks = masks_of(monkeypatch)
    sparsifier, rounds = scores_of(monkeypatch, lambda: made(model, init, density, torch.zeros(8, 12)))
    assert len(rounds) == len(masks) == 20
    for scores, active in zip(rounds[1:], masks[:-1], strict=True):
        flows = [float(values[active[name]].sum()) for name, values in scores.items()]
        assert flows == pytest.approx([flows[0]] * 3)
        assert flows[0] > 0
    assert all(mask.any() for mask in sparsifier.masks.values())
    assert sum(sparsifier.active.values()) == 6


def test_synaptic_flow_sees_norms_by_their_statistics_and_changes_nothing():
    model = conv_net()
    model[1].running_var.fill_(4.0)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sparsifier = made(model, {"name": "synflow", "rounds": 3}, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for name, value in model.state_dict().items():
        layer = name.removesuffix(".weight")
        expected = (
            before[name] * sparsifier.masks[layer]
            if layer in sparsifier.masks and "weight" in name
            else before[name]
        )
        assert torch.equal(value, expected), name


def test_densities_of_rounds_by_hand():
    rounds = Rounds(100)
    got = [rounds.density_at(k, 0.01) for k in (1, 2, 50, 99, 100)]
    assert got == pytest.approx([0.9550, 0.9120, 0.1, 0.0105, 0.01], abs=5e-5)
    assert [Rounds(2, course="linear").density_at(k, 0.1) for k in (1, 2)] == pytest.approx([0.55, 0.1])


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(monkeypatch):
    """Against the full Hessian of a small network, its outputs divided by 200."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    shapes = [model[0].weight.shape, model[2].weight.shape]

    def loss(flat):
        first, last = flat.split([12, 8])
        outputs = torch.tanh(x @ first.view(shapes[0]).T) @ last.view(shapes[1]).T
        return cross_entropy(outputs / 200, y)

    flat = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    (g,) = torch.autograd.grad(loss(wanted := flat.clone().requires_grad_()), wanted)
    expected = flat * (torch.autograd.functional.hessian(loss, flat) @ g)
    _, rounds = scores_of(
        monkeypatch, lambda: made(model, "grasp", 0.5, torch.zeros(5, 3), cross_entropy, [(x, y)])
    )
    got = torch.cat([values.flatten() for values in rounds[0].values()])
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-12)


def test_grasp_reads_the_mean_of_its_batches(monkeypatch):
    """Two batches of four are one of eight."""
    (x, y) = next(batches(1, (8, 12)))
    scores = []
    for data in ([(x, y)], [(x[:4], y[:4]), (x[4:], y[4:])]):
        init = {"name": "grasp", "batches": len(data)}
        with monkeypatch.context() as patch:
            _, rounds = scores_of(patch, lambda: made(mlp(), init, 0.5, x, cross_entropy, data))  # noqa: B023
        scores.append(rounds[0])
    for name, values in scores[0].items():
        assert torch.allclose(values, scores[1][name], rtol=1e-3, atol=1e-9), name


def test_one_round_of_iterative_snip_is_snip():
    """At the first batch, with its gradients: the same masks as init ``snip``, which waits for its step."""
    data = list(batches(1))
    once = made(mlp(), {"name": "snip-it", "rounds": 1}, 0.2, data[0][0], cross_entropy, data)
    model = mlp()
    waits = dstbench.Sparsifier(model, sgd(model), recipe("never", init="snip"), 0.2, total_steps=9)
    train(model, waits, 1)
    assert all(torch.equal(mask, waits.masks[name]) for name, mask in once.masks.items())


@pytest.mark.parametrize("init", ["snip-it", "force"])
def test_rounds_rescore_the_masked_network_and_only_force_takes_weights_back(init, monkeypatch):
    """Each round's scores are |g · w| of the network masked by the round before, w being the initial ones."""
    data, masks = list(batches(1, (8, 12))), masks_of(monkeypatch)
    sparsifier, rounds = scores_of(
        monkeypatch, lambda: made(mlp(), {"name": init, "rounds": 6}, 0.05, data[0][0], cross_entropy, data)
    )
    size = sparsifier.size
    assert [sum(int(m.sum()) for m in of.values()) for of in masks] == [
        round(size * 0.05 ** (k / 6)) for k in range(1, 7)
    ]
    for number in range(1, 6):
        network = mlp()
        layers = {"0": network[0], "2": network[2], "4": network[4]}
        whole = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.weight.data *= masks[number - 1][name]
        cross_entropy(network(data[0][0]), data[0][1]).backward()
        for name, layer in layers.items():
            expected = (layer.weight.grad * whole[name]).abs()
            assert torch.allclose(rounds[number][name], expected, atol=1e-7), (number, name)
    back = sum(
        int((later[name] & ~earlier[name]).sum())
        for earlier, later in itertools.pairwise(masks)
        for name in earlier
    )
    assert (back > 0) == (init == "force")


@pytest.mark.parametrize("init", ["synflow", "snip-it"])
@pytest.mark.parametrize("model", ["gpt", "llama"])
def test_language_models_are_scored(model, init):
    factory = REGISTRY.build("model", {"name": model, "layers": 1, "heads": 2, "dim": 16})
    torch.manual_seed(0)
    network = factory(num_classes=11, input_shape=(6,))
    tokens = torch.randint(11, (4, 6))

    def loss(logits, targets):
        return cross_entropy(logits.flatten(0, 1), targets.flatten())

    sparsifier = made(network, {"name": init, "rounds": 4}, 0.2, tokens, loss, [(tokens, tokens)])
    assert sum(sparsifier.active.values()) == round(0.2 * sparsifier.size)
    assert sum(active > 1 for active in sparsifier.active.values()) > len(sparsifier.active) // 2


@pytest.mark.parametrize("structure", ["n_of_m", "channel", {"name": "block", "block_size": 2}])
@pytest.mark.parametrize("init", ["synflow", "force"])
def test_structures_are_legal_after_rounds(structure, init):
    model = mlp(sizes=(16, 32, 16, 4))
    data = list(batches(2, (8, 16)))
    parts = recipe("never", init={"name": init, "rounds": 5}, structure=structure)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), parts, 0.3, total_steps=9,
        calibration=dstbench.Calibration(data, cross_entropy), example_input=data[0][0],
    )  # fmt: skip
    for name, mask in sparsifier.masks.items():
        assert sparsifier.structures[name].is_legal(sparsifier.layers[name].info, mask)
    train(model, sparsifier, 2, shape=(8, 16), after=lambda: assert_masked(sparsifier))


def test_looks_are_charged_and_training_costs_what_it_did():
    """Three rounds of one batch of four: forward, input gradients of what is active, weight gradients of all."""
    model = conv_net()
    sparsifier = made(model, {"name": "force", "rounds": 3}, 0.25)
    assert [(look.samples, look.sparse, look.dense) for look in sparsifier.passes] == [(4, 2, 1)] * 3
    active = [sum(look.active.values()) / sparsifier.size for look in sparsifier.passes]
    assert active == pytest.approx([1, 0.25 ** (1 / 3), 0.25 ** (2 / 3)], abs=1e-3)
    meter = TrainingMeter(layer_costs(model, (3, 8, 8)))
    for look in sparsifier.passes[:1]:
        meter.look(look.active, look.samples, look.sparse, look.dense)
    meter.add(sparsifier.active, 4, dense_gradient=False)
    alone = TrainingMeter(layer_costs(model, (3, 8, 8)))
    alone.add(sparsifier.active, 4, dense_gradient=False)
    assert meter.dense == alone.dense
    assert meter.sparse == pytest.approx(alone.sparse + alone.dense)  # the first look is at the dense network
    again = TrainingMeter(layer_costs(model, (3, 8, 8)))
    again.load_state_dict(meter.state_dict())
    assert again.sparse == meter.sparse


def test_forward_looks_cost_a_third():
    sparsifier = made(conv_net(), {"name": "wanda", "batches": 2}, 0.25)
    assert [(look.samples, look.sparse, look.dense) for look in sparsifier.passes] == [(8, 1, 0)]


def test_what_is_missing_is_said():
    model = mlp()
    parts = recipe("never", init="force")
    with pytest.raises(BadInput, match=r"calibration: .* pass calibration=dstbench\.Calibration"):
        dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=9)
    with pytest.raises(BadInput, match="example_input: the init is scored with ones"):
        dstbench.Sparsifier(model, sgd(model), recipe("never", init="synflow"), 0.5, total_steps=9)
    with pytest.raises(BadInput, match="batches: expected at least one, got none"):
        made(mlp(), "force", 0.5, torch.zeros(8, 12), data=[])
    with pytest.raises(BadInput, match=r"batches: expected pairs \(inputs, targets\), got Tensor"):
        made(mlp(), "force", 0.5, torch.zeros(8, 12), data=[torch.zeros(8, 12)])
    with pytest.raises(BadInput, match="count: expected an integer >= 0, got -3"):
        made(mlp(), {"name": "force", "rounds": -3}, 0.5, torch.zeros(8, 12))
    with pytest.raises(BadInput, match=r"init: .*reads gradients"):
        dstbench.densities(mlp(), 0.1, init="force")


def test_condensed_storage_takes_masks_of_rounds(monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
    x = torch.randn(8, 32)
    parts = {"structure": Offering(), "init": {"name": "force", "rounds": 2}, "schedule": "never"}
    look = dstbench.Calibration([(x, torch.zeros(8, dtype=torch.int64))], cross_entropy)
    made = []
    for storage in ("masked", "condensed"):
        model = mlp(sizes=(32, 64, 4))
        sparsifier = dstbench.Sparsifier(
            model, sgd(model), parts, 0.25, total_steps=9, storage=storage, example_input=x, calibration=look
        )
        train(model, sparsifier, 2, shape=(8, 32))
        made.append(sparsifier)
    assert set(made[1].arrangement.paths.values()) == {"scattered"}
    for name, mask in made[0].masks.items():
        assert torch.equal(mask, made[1].masks[name])
        assert torch.allclose(made[0].weights.logical(name), made[1].weights.logical(name), atol=1e-6)
