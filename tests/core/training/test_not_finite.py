"""Infinite and NaN weights and gradients: refused where something would be decided by them, by layer and step."""

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import StrategyError
from dstbench.errors import NotFinite
from dstbench.runner.failures import failure
from fakes.engine import batches, mlp, recipe, sgd, train


def trained(method, steps=2):
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.2, total_steps=40)
    train(model, sparsifier, steps)
    images, labels = next(batches(1, seed=9))
    nn.functional.cross_entropy(model(images), labels).backward()
    return model, sparsifier


@pytest.mark.parametrize("method", [recipe("constant", 3), recipe("constant", 3, prune="random")])
def test_weights_at_an_update(method):
    """Also where the parts of the method read none of them."""
    model, sparsifier = trained(method)
    place = sparsifier.masks["2"].nonzero()[:2].T
    with torch.no_grad():
        model[2].weight[*place] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(NotFinite, match=r"^layer '2', step 3: 2 of 384 weights aren't finite: nothing can"):
        sparsifier.step()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"grow": "gradient"}, r"3 of 384 gradients aren't finite"),
        ({"grow": "momentum"}, r"3 of 384 averages of gradients aren't finite"),
    ],
)
def test_gradients_of_inactive_weights_at_an_update(parts, said):
    """A loss scaler would have skipped the step."""
    model, sparsifier = trained(recipe("constant", 3, **parts))
    model[2].weight.grad[*(~sparsifier.masks["2"]).nonzero()[:3].T] = -torch.inf
    with pytest.raises(NotFinite, match=rf"layer '2', step 3: {said}"):
        sparsifier.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("values", ["last", {"name": "swi", "grown": "last"}, "top-kast", "deep-r"], ids=str)
def test_values_that_only_pass_on_what_weights_hold(values):
    """A memory or a penalty of a weight that diverged: the training's end, not the values' defect."""
    model, sparsifier = trained(recipe("constant", 3, values=values))
    with torch.no_grad():
        model[2].weight[*sparsifier.masks["2"].nonzero()[0]] = torch.nan
    with pytest.raises(NotFinite, match=r"^layer '2', step 3: 1 of 384 weights aren't finite"):
        sparsifier.step()


def test_what_no_part_reads_stops_no_update():
    """Gradients of inactive weights, where growth is random and pruning reads those of active ones."""
    model, sparsifier = trained(recipe("constant", 3, prune="mest"))
    model[2].weight.grad[~sparsifier.masks["2"]] = torch.nan
    sparsifier.step()
    assert sparsifier.updates == 1
    assert sum(sparsifier.active.values()) == round(0.2 * 736)


def test_initial_masks():
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(StrategyError, match=r"layer '2': 1 of 384 scores are NaN: 1 of 384 weights aren't"):
        dstbench.Sparsifier(model, sgd(model), recipe(init="magnitude"), 0.2, total_steps=9)
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), "snip", 0.2, total_steps=9)
    model(torch.randn(2, 12)).sum().backward()
    model[2].weight.grad[0, 0] = torch.inf
    with pytest.raises(NotFinite, match=r"step 1: layer '2': 1 of 384 gradients aren't finite: no initial"):
        sparsifier.step()


def test_it_is_a_divergence():
    assert failure(NotFinite("layer '0'"))["status"] == "diverged"
