"""CSTI: the links of correlated inputs, worked out by hand and against numpy."""

import itertools
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import dstbench
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter, training_cost
from dstbench.core.network.layers import maskable_layers
from dstbench.errors import BadInput
from dstbench_plugins.init.correlated import Correlated
from fakes.engine import bits, conv_net, recipe, sgd, view

A, B, C, SEVEN = [1.0, 2, 3, 4], [1.0, 2, 4, 3], [-1.0, 1, 1, -1], [7.1] * 4
FEATURES = torch.tensor([A, B, C, SEVEN]).T  # |r|: AB 4/5, BC 1/√5, AC 0; SEVEN varies with nothing


def network(*sizes):
    torch.manual_seed(0)
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(nn.Flatten(), *(nn.Linear(a, b, bias=False) for a, b in pairs))


def started(model, density, inputs=(FEATURES[:3], FEATURES[3:]), init="csti", **more):
    calibration = dstbench.Calibration([(x, None) for x in inputs], lambda outputs, _: outputs.sum())
    parts = recipe("never", init={"name": init, "batches": len(inputs)}, **more)
    return dstbench.Sparsifier(model, sgd(model), parts, density, total_steps=9, calibration=calibration)


def test_four_features_by_hand():
    """Eight rows are the four features twice. Of six links four have 4/5, and two of the four of 1/√5 come first."""
    sparsifier = started(network(4, 8, 2), 3 / 16)
    expected = bits("0100", "1010", "0100", "0000", "0100", "1000", "0000", "0000")
    assert torch.equal(sparsifier.masks["1"], expected)
    assert int(sparsifier.masks["2"].sum()) == 3
    assert sparsifier.fallbacks == {}


def test_fewer_rows_than_features_are_the_first_ones():
    assert torch.equal(started(network(4, 2), 2 / 8).masks["1"], bits("0100", "1000"))


@pytest.mark.parametrize("rows", [3, 5, 12])
def test_scores_are_those_of_numpy_also_far_from_zero(rows):
    """Over three uneven batches of a mean of a thousand."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(60, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 1000
    r = np.abs(np.corrcoef(x.double().numpy(), rowvar=False))
    np.fill_diagonal(r, 0)
    model = network(5, rows)
    n = rows * 5 // 3
    mask = started(model, n / (rows * 5), x.split((10, 30, 20))).masks["1"]
    expected = np.zeros(rows * 5, bool)
    expected[np.argsort(-r[np.arange(rows) % 5].round(10), axis=None, kind="stable")[:n]] = True
    assert mask.flatten().tolist() == expected.tolist()
    assert int(mask.sum()) == n


def test_a_score_of_nothing_that_varies_is_zero():
    x = torch.full((100, 3), 0.1).double()
    extra = {
        "count": torch.full((2, 3), 100.0).double(), "sum": x.sum(0).expand(2, 3),
        "square": x.square().sum(0).expand(2, 3), "product": (x.T @ x)[:2],
    }  # fmt: skip
    assert not Correlated()(view(torch.ones(2, 3), extra=extra), torch.Generator()).any()


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(self.embedding(x))


def test_only_a_linear_layer_that_sees_the_input_is_ranked():
    seeing = [maskable_layers(model) for model in (network(4, 8, 2), conv_net(), Embedded())]
    assert [[name for name, layer in of.items() if layer.info.sees_input] for of in seeing] == [["1"], [], []]
    sparsifier = started(network(4, 8, 2), 1 / 8)
    assert sparsifier.evolution.rules.unscored == {"2": "init: its inputs aren't the network's own"}


def test_what_a_look_costs_is_counted():
    """A forward pass of 48 weights and 4 · 4 products a sample, of which there are four."""
    model = network(4, 8, 2)
    (look,) = started(model, 1 / 8).passes
    assert (look.samples, look.sparse, look.dense, look.products) == (4, 1, 0, {"1": 16})
    meter = TrainingMeter(layer_costs(network(4, 8, 2), (4,)))
    meter.look(look.active, look.samples, look.sparse, look.dense, look.products)
    assert meter.sparse == 4 * (48 + 16)
    planned = training_cost(
        network(4, 8, 2), recipe("never", init={"name": "csti", "batches": 4}), 1 / 8, 1, (4,)
    )
    assert planned.sparse == 4 * (48 + 16) + 3 * 6


def test_pairs_are_an_inits_alone_and_of_linear_layers():
    class Paired:
        accumulators: ClassVar = {"product": {"name": "input_moment", "of": "product"}}

        def __call__(self, layer, rng):
            return layer.extra["product"]

    from dstbench.api import Policy

    with pytest.raises(
        BadInput, match=r"Paired.* reads pairs of inputs as 'product', which an init alone has"
    ):
        dstbench.Sparsifier(
            model := network(4, 2), sgd(model), recipe("never", prune=Policy(Paired())), 0.5, total_steps=9
        )
    images = dstbench.Calibration([(torch.randn(2, 3, 8, 8), None)], lambda outputs, _: outputs.sum())
    with pytest.raises(BadInput, match="pairs of inputs are those of linear layers, not Conv2d"):
        dstbench.Sparsifier(
            model := conv_net(), sgd(model), recipe("never", init=Policy(Paired())), 0.5, total_steps=9,
            calibration=images,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "spec", "match"),
    [
        ("init", {"name": "csti", "batches": 0}, "batches: expected an integer >= 1"),
        ("accumulator", {"name": "input_moment", "of": "cube"}, "parameter 'of' expected"),
    ],
)
def test_parameters_are_checked(kind, spec, match):
    with pytest.raises(BadInput, match=match):
        dstbench.registry().build(kind, spec)


def test_batches_are_looked_at_one_at_a_time():
    """However many there are, no more than the last one is held."""
    seen, alive = [], []

    class Batches:
        def __iter__(self):
            for _ in range(6):
                images = FEATURES + len(seen)
                seen.append(weakref.ref(images))
                yield images, None
                del images
                alive.append(sum(reference() is not None for reference in seen))

    calibration = dstbench.Calibration(Batches(), lambda outputs, _: outputs.sum())
    parts = recipe("never", init={"name": "csti", "batches": 6})
    model = network(4, 8, 2)
    dstbench.Sparsifier(model, sgd(model), parts, 0.2, total_steps=9, calibration=calibration)
    assert len(seen) == 6
    assert max(alive) <= 1
