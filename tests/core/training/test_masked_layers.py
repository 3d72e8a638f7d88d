"""Which layers are masked, under which names, and what is left dense."""

import pytest
import torch
from torch import nn

from dstbench.api import Recipe
from dstbench.core.network.layers import maskable_layers, unwrap
from fakes.engine import assert_masked, conv_net, mlp, recipe, train
from fakes.loops import sparsify


def test_only_weights_of_convolutions_and_linear_layers_are_masked():
    """rigl-torch masks norm weights as well."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.LayerNorm(288), nn.Linear(288, 4)
    )
    sparsifier = sparsify(model, recipe=recipe())
    assert list(sparsifier.masks) == ["0", "4"]
    assert all((module.weight == 1).all() for module in (model[1], model[3]))


def test_dense_layers_are_out_of_the_budget_and_untouched():
    model = conv_net()
    before = model[0].weight.clone()
    sparsifier = sparsify(model, density=0.3, recipe=recipe(), dense_layers=["0", "1*"])
    assert list(sparsifier.layers) == ["3", "5"]
    assert list(sparsifier.dense_layers) == ["0", "10"]
    assert torch.equal(model[0].weight, before)
    assert sum(sparsifier.active.values()) == round(0.3 * (72 + 96))


def test_dense_layers_of_the_recipe_add_up():
    sparsifier = sparsify(mlp(), recipe=Recipe(grow="random", dense_layers=("0",)), dense_layers=["4"])
    assert list(sparsifier.layers) == ["2"]


def test_a_weight_that_two_layers_share_is_masked_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.head(self.two(self.one(x).tanh()).tanh())

    model = Tied()
    sparsifier = sparsify(model, density=0.25, total_steps=12, recipe=recipe(grow="gradient"))
    assert list(sparsifier.masks) == ["one", "head"]
    assert sparsifier.size == 144 + 48
    train(model, sparsifier, 12)
    assert sum(sparsifier.active.values()) == round(0.25 * 192)
    assert_masked(sparsifier)
    assert model.two.weight is model.one.weight


def test_layers_that_do_not_fit_are_unstructured_and_listed():
    sparsifier = sparsify(conv_net(), density=0.5, recipe=recipe(structure="channel"))
    assert list(sparsifier.fallbacks) == ["10"]
    table = sparsifier.summary().set_index("layer")
    assert "classes" in table.loc["10", "structure"]
    assert table.loc["0", "structure"] == "channel"


def test_the_summary_adds_up():
    model = mlp()
    sparsifier = sparsify(model, total_steps=20, recipe=recipe())
    train(model, sparsifier, 10)
    table = sparsifier.summary()
    assert list(table["layer"]) == ["0", "2", "4"]
    assert list(table["shape"]) == [(24, 12), (16, 24), (4, 16)]
    assert table["weights"].sum() == 736
    assert table["active"].sum() == round(0.2 * 736)
    assert (table["target"] == table["measured"]).all()
    assert (table["r_s"] * table["weights"]).sum() / 736 == pytest.approx(sparsifier.r_s)
    assert (table["r_s"] > table["measured"]).any()


class Modular(nn.Module):
    """Its layers have the names that wrappers use."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(4, 4)
        self._orig_mod = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self._orig_mod(self.module(x)))


def test_wrappers_are_known_by_type_not_by_name():
    names = ["module", "_orig_mod.0", "head"]
    assert unwrap(Modular()).head
    for model in (Modular(), nn.DataParallel(Modular()), torch.compile(nn.DataParallel(Modular()))):
        assert list(maskable_layers(model)) == names
        assert [n for n, layer in maskable_layers(model).items() if layer.info.classifier] == ["head"]


def test_a_compiled_part_leaves_no_trace_in_names():
    model = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(4, 4))), nn.Linear(4, 2))
    assert list(maskable_layers(model)) == ["0.0", "1"]


def test_names_are_the_same_inside_wrappers():
    plain = list(maskable_layers(conv_net()))
    assert list(maskable_layers(torch.compile(conv_net()))) == plain
    assert list(maskable_layers(nn.DataParallel(conv_net()))) == plain
    assert list(maskable_layers(nn.DataParallel(torch.compile(conv_net())))) == plain
    assert list(maskable_layers(nn.DataParallel(nn.Linear(2, 2)))) == list(maskable_layers(nn.Linear(2, 2)))


def test_the_classifier_is_known_inside_wrappers():
    for model in (conv_net(), torch.compile(conv_net()), nn.DataParallel(conv_net())):
        assert [n for n, layer in maskable_layers(model).items() if layer.info.classifier] == ["10"]
