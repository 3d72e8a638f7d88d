"""Wrapped, compiled, copied and averaged models."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fakes.engine import mlp, sgd, train
from fakes.loops import assert_equal_to, same, sparsify


@pytest.mark.parametrize("wrap_first", [True, False])
def test_compiled_models_train_the_same(reference, wrap_first):
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    sparsifier = sparsify(compiled if wrap_first else model, sgd(model))
    assert list(sparsifier.masks) == ["0", "2", "4"]
    train(compiled, sparsifier, 12)
    assert_equal_to(reference, model, sparsifier)


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile, AveragedModel])
def test_masks_apply_to_copies_in_any_wrapper(wrap):
    model = mlp()
    sparsifier = sparsify(model)
    copied = wrap(mlp(seed=1))
    assert copied is not model
    sparsifier.apply_masks(copied)
    inner = next(module for module in copied.modules() if isinstance(module, nn.Sequential))
    for name, mask in sparsifier.masks.items():
        weight = inner[int(name)].weight
        assert not weight.detach()[~mask].any()
        assert (weight.detach()[mask] != 0).all()


def test_masks_apply_to_an_average_over_updates():
    model = mlp()
    sparsifier = sparsify(model)
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    train(model, sparsifier, 8, after=lambda: average.update_parameters(model))
    weight = average.module[0].weight.detach()
    assert weight[~sparsifier.masks["0"]].any()  # it averages over several masks
    sparsifier.apply_masks(average)
    assert not weight[~sparsifier.masks["0"]].any()


def test_masks_apply_to_a_bare_layer():
    layer = nn.Linear(8, 8)
    sparsifier = sparsify(layer)
    for copied in (copy.deepcopy(layer), nn.DataParallel(nn.Linear(8, 8))):
        sparsifier.apply_masks(copied)
        weight = getattr(copied, "module", copied).weight
        assert int(weight.count_nonzero()) == round(0.2 * 64)


def test_a_sparsified_model_can_be_copied_and_pickled(tmp_path):
    model = mlp()
    sparsifier = sparsify(model)
    train(model, sparsifier, 4)
    copied = copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert same(copied, model)
    assert same(loaded, model)
