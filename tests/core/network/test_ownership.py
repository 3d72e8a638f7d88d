"""Which weights may be masked: found by what modules do with them."""

import warnings

import pytest
import timm.layers as tl
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from dstbench.core.network.ownership import owned
from dstbench.core.network.probe import rewrites
from dstbench.errors import BadInput


class Centred(nn.Linear):
    """Spreads zeros along columns only: a mask of whole columns would show nothing."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight - self.weight.mean(0), self.bias)


class Binary(nn.Conv2d):
    """Its ``forward`` is torch's own; what that calls isn't."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, torch.where(weight >= 0, 1.0, -1.0), bias)


class Halved(nn.Conv2d):
    """Zeros stay zeros."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / 2, bias)


class Merged(nn.Linear):
    """A low-rank update that evaluation adds to the weight itself, as loralib does: zero before training."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.a, self.b = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.zeros(outputs, 2))

    def train(self, mode=True):
        if self.training and not mode:
            self.weight.data += self.b @ self.a
        return super().train(mode)


class Elsewhere(nn.Linear):
    """Never multiplies with its weight."""

    def forward(self, x):
        return x[..., : self.out_features] + self.weight.sum(1)


class Flat(nn.Conv2d):
    """A 1x1 convolution as a matrix product."""

    def forward(self, x):
        return nn.functional.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda module, x: module.weight.data.sub_(module.weight.data.mean()))
    return layer


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Linear(4, 4), None),
        (nn.ConvTranspose2d(4, 4, 3), None),
        (tl.Conv2dSame(3, 8, 3, stride=2), None),
        (tl.Linear(4, 4), None),
        (Halved(4, 4, 3, groups=2, padding=3, padding_mode="reflect"), None),
        (Flat(5, 8, 1), None),
        (tl.StdConv2d(3, 8, 3), "rewrites"),
        (tl.ScaledStdConv2d(3, 8, 3, padding=1), "rewrites"),
        (tl.ScaledStdConv2dSame(3, 8, 3, stride=2), "rewrites"),
        (Centred(8, 8), "rewrites"),
        (Binary(3, 4, 3), "rewrites"),
        (Merged(6, 4), "writes to its weight"),
        (hooked(), "writes to its weight"),
        (Elsewhere(4, 3), "something else"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_a_rewritten_weight_is_found_by_what_its_module_does(layer, why):
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    reason = rewrites(layer)
    assert reason is None if why is None else why in reason
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.training


@pytest.mark.parametrize(("layer", "kept"), [(tl.Conv2dSame, True), (tl.StdConv2d, False)])
def test_layers_without_memory_are_tried_too(layer, kept):
    with torch.device("meta"):
        assert (rewrites(layer(3, 8, 3)) is None) is kept


def test_fake_quantisation_keeps_zeros():
    from torch.ao.nn import qat
    from torch.ao.quantization import get_default_qat_qconfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert rewrites(qat.Linear(8, 8, qconfig=get_default_qat_qconfig())) is None


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.body = nn.Embedding(50, 32), nn.Linear(32, 32)
        self.out = nn.Linear(32, 50, bias=False)
        self.out.weight = self.emb.weight


def reasons(model, **options):
    return {name: left.reason for name, left in owned(model, **options).left_out.items()}


def test_a_weight_that_an_embedding_shares_stays_dense():
    found = owned(Tied())
    assert list(found.sparse) == ["body"]
    assert "'emb', of type Embedding" in found.left_out["out"].reason
    assert found.weights == 1600 + 1024


def test_a_weight_that_only_shares_memory_stays_dense():
    model = Tied()
    model.out.weight = nn.Parameter(model.emb.weight.data)  # another parameter of the same memory
    assert "'emb.weight'" not in reasons(model)
    assert "memory of its weight is that of emb.weight" in reasons(model)["out"]
    two = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    two[1].weight = nn.Parameter(two[0].weight.data.view(-1)[:16].view(4, 4))
    assert list(owned(two).sparse) == ["2"]


def test_parts_of_one_buffer_that_do_not_overlap_may_be_masked():
    flat = torch.randn(32)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for i in range(2):
        model[i].weight = nn.Parameter(flat[16 * i : 16 * i + 16].view(4, 4))
    assert list(owned(model).sparse) == ["0", "1"]


def test_a_weight_that_a_rewriting_layer_shares_stays_dense():
    model = nn.Sequential(nn.Linear(8, 8), Centred(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    assert list(owned(model).sparse) == ["2"]


def test_what_is_no_layer_is_listed_with_its_kind():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.position = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(1, 7, 4))

    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "lstm": nn.LSTM(8, 4),
            "cell": nn.GRUCell(8, 4),
            "embedding": nn.Embedding(9, 8),
            "normed": parametrizations.weight_norm(nn.Linear(8, 8)),
            "raw": Raw(),
            "norm": nn.LayerNorm([3, 4]),
            "head": nn.Linear(8, 2),
        }
    )
    found = owned(model)
    assert list(found.sparse) == ["attention.in_proj_weight", "attention.out_proj", "head"]
    kinds = {name: left.reason.split(",")[0] for name, left in found.left_out.items()}
    assert (
        kinds["lstm.weight_ih_l0"]
        == kinds["lstm.weight_hh_l0"]
        == kinds["cell.weight_hh"]
        == "recurrent weights"
    )
    assert kinds["normed.parametrizations.weight.original1"] == "a parametrization computes a weight from it"
    assert "raw.matrix" in kinds
    assert "raw.position" not in kinds
    assert "embedding.weight" in kinds
    unasked = found.weights - sum(layer.info.numel for layer in found.sparse.values()) - 72
    assert f"{unasked} of {found.weights} matrix weights stay dense" in found.warning()


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("rewrite", [old_weight_norm, spectral_norm])
def test_hooks_that_make_the_weight_are_listed(rewrite):
    model = nn.Sequential(rewrite(nn.Linear(8, 8)), nn.Linear(8, 8))
    found = owned(model)
    assert list(found.sparse) == ["1"]
    assert sum(left.weights for left in found.left_out.values()) == 64


def test_a_frozen_or_foreign_weight_stays_dense():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    found = owned(model, held={id(p) for p in (*model[0].parameters(), *model[2].parameters())})
    assert list(found.sparse) == ["2"]
    assert "frozen" in found.left_out["0"].reason
    assert "no optimizer" in found.left_out["1"].reason


def test_what_was_asked_to_stay_dense_makes_no_warning():
    model = nn.Sequential(nn.Embedding(5, 8), tl.StdConv2d(3, 8, 3), nn.Linear(8, 8))
    assert owned(model, ["1"]).warning() is None
    assert "1 (StdConv2d" in owned(model).warning()


def test_nothing_left_to_mask_says_why():
    with pytest.raises(BadInput, match=r"no convolution or linear weight left to mask; weight: it is frozen"):
        owned(nn.Linear(4, 4).requires_grad_(False))


class Special(torch.Tensor):
    """A tensor of its own kind, as quantised weights are."""


def test_a_tensor_of_another_kind_stays_dense():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.complex64))
    model[0].weight = nn.Parameter(torch.randn(4, 4).as_subclass(Special))
    found = owned(model)
    assert list(found.sparse) == ["1"]
    assert "Special, not a plain tensor" in found.left_out["0"].reason
    assert "complex64" in found.left_out["2"].reason
