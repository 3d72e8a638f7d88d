"""Attention that packs its projections into weights of its own, as torch's does: masked like any linear layer."""

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import dstbench
from dstbench.core.cost.cost import cost
from dstbench.core.network.ownership import owned
from dstbench.core.storage.condensed_layer import expanded
from fakes.costs import torchs_macs
from fakes.engine import recipe, sgd

PACKED = "self_attn.in_proj_weight"


class Classifier(nn.Module):
    """A transformer encoder over [batch, tokens, d], its mean token classified."""

    def __init__(self, width=16, hidden=32, layers=2):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, hidden, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, layers), nn.Linear(width, 4)

    def forward(self, x, padded=None):
        return self.head(self.encoder(x, src_key_padding_mask=padded).mean(1))


@contextmanager
def unfused():
    """torch's attention by its operators."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def train(model, sparsifier, steps, shape=(8, 5, 16)):
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        sparsifier.optimizer.zero_grad()
        x, labels = torch.randn(shape, generator=draw), torch.randint(4, shape[:1], generator=draw)
        nn.functional.cross_entropy(model(x), labels).backward()
        sparsifier.step()


def by_magnitude(density, model):
    method = recipe(init="magnitude", grow="random", schedule="never")
    return dstbench.Sparsifier(model, sgd(model), method, density, total_steps=4, dense_layers=["out_proj"])


def test_the_largest_of_the_packed_weight_by_hand():
    """[q; k; v] of d = 2 is 6 x 2: a quarter of its twelve are the three largest, whatever third they are in."""
    attention = nn.MultiheadAttention(2, 1)
    with torch.no_grad():
        attention.in_proj_weight.copy_(
            torch.tensor([[1.0, -9.0], [2.0, 0.5], [0.1, 0.2], [-7.0, 3.0], [8.0, 4.0], [0.3, 5.0]])
        )
    sparsifier = by_magnitude(0.25, attention)
    assert attention.in_proj_weight.tolist() == [[0, -9], [0, 0], [0, 0], [-7, 0], [8, 0], [0, 0]]
    assert sparsifier.density == 0.25
    assert sparsifier.left_out == {}


def test_separate_projections_are_layers_each():
    attention = nn.MultiheadAttention(4, 2, kdim=2, vdim=6)
    sparsifier = by_magnitude(0.5, attention)
    assert {name: layer.info.shape for name, layer in sparsifier.layers.items()} == {
        "q_proj_weight": (4, 4), "k_proj_weight": (4, 2), "v_proj_weight": (4, 6),
    }  # fmt: skip
    for name, mask in sparsifier.masks.items():
        assert torch.equal(getattr(attention, name) != 0, mask)


def test_training_keeps_the_masks_and_grows_where_gradients_are_largest():
    torch.manual_seed(0)
    model = Classifier()
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe("constant", 3, grow="gradient"), 0.2, total_steps=40
    )
    names = [name for name in sparsifier.layers if name.endswith(PACKED)]
    assert names == [f"encoder.layers.{i}.{PACKED}" for i in range(2)]
    before = {name: sparsifier.masks[name].clone() for name in names}
    train(model, sparsifier, 10)
    assert sparsifier.updates == 3
    assert sparsifier.density == round(0.2 * sparsifier.size) / sparsifier.size
    for name in names:
        assert not torch.equal(sparsifier.masks[name], before[name])
        assert not bool(sparsifier.layers[name].weight[~sparsifier.masks[name]].any())


def test_the_fused_paths_of_evaluation_multiply_with_the_masked_weights():
    """A twin whose weights were zeroed by hand computes the same by torch's own, unfused attention."""
    torch.manual_seed(0)
    model = Classifier()
    twin = copy.deepcopy(model).eval()
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe(grow="random"), 0.2, total_steps=40)
    with torch.no_grad():
        for name, mask in sparsifier.masks.items():
            own = name if name.endswith("in_proj_weight") else f"{name}.weight"
            twin.get_parameter(own).mul_(mask)
    x, padded = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    padded[1:, 3:] = True
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nested tensors
        fused = [model.eval()(x), model.encoder(x, src_key_padding_mask=padded)[0]]
        with unfused():
            expected = [twin(x), twin.encoder(x, src_key_padding_mask=padded)[0]]
    for mine, theirs in zip(fused, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_condensed_storage_leaves_it_masked_and_never_bypasses_the_layers_beside_it():
    """The fused encoder layer would read the condensed layers' weights itself, which are of other shapes."""
    torch.manual_seed(0)
    model = Classifier(width=64, hidden=256, layers=1)
    x = torch.randn(64, 16, 64)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), "dsb-fast", 0.1, total_steps=9, storage="condensed", example_input=x
    )
    paths = sparsifier.arrangement.paths
    assert paths[f"encoder.layers.0.{PACKED}"] == "masked-dense"
    chosen = {name: "shuffled-block bmm" for name in paths if "linear" in name}
    sparsifier.arrangement.adopt({**paths, **chosen}, sparsifier.masks, {})
    sparsifier.masking.adopt(sparsifier.topology)
    train(model, sparsifier, 3, tuple(x.shape))
    padded = torch.zeros(64, 16, dtype=torch.bool)
    padded[1:, 9:] = True
    dense = expanded(model).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for given in (None, padded):
            torch.testing.assert_close(model.eval()(x, given), dense(x, given), rtol=1e-4, atol=1e-5)


def test_state_dicts_and_checkpoints_hold_it():
    torch.manual_seed(0)
    model = Classifier()
    method = recipe("constant", 3, grow="gradient")
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.2, total_steps=40)
    train(model, sparsifier, 4)
    saved = copy.deepcopy([model.state_dict(), sparsifier.optimizer.state_dict(), sparsifier.state_dict()])
    train(model, sparsifier, 4)
    other = Classifier()
    resumed = dstbench.Sparsifier(other, sgd(other), method, 0.2, total_steps=40)
    for part, state in zip((other, resumed.optimizer, resumed), saved, strict=True):
        part.load_state_dict(state)
    train(other, resumed, 4)
    assert all(torch.equal(mask, resumed.masks[name]) for name, mask in sparsifier.masks.items())
    average = copy.deepcopy(model)
    average.encoder.layers[0].self_attn.in_proj_weight.data.fill_(1)
    sparsifier.apply_masks(average)
    packed = average.encoder.layers[0].self_attn.in_proj_weight
    assert torch.equal(packed != 0, sparsifier.masks[f"encoder.layers.0.{PACKED}"])


def test_cost_and_compaction_of_an_image_transformer():
    """torchvision's: its products are those that torch's counter sees, at the masks' densities."""
    import torchvision

    model = torchvision.models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=4)
    nn.init.normal_(model.heads.head.weight)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe("constant", 2, grow="gradient", init="uniform"), 0.25, total_steps=9
    )
    assert sparsifier.left_out == {}
    train(model, sparsifier, 3, (4, 3, 32, 32))
    found, dense = cost(model, sparsifier.masks), cost(model)
    with unfused(), sdpa_kernel(SDPBackend.MATH):  # torch's counter doesn't see into fused attention on a CPU
        assert dense.all_macs == sum(torchs_macs(model, (3, 32, 32)).values())
    name = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    density = float(sparsifier.masks[name].float().mean())
    assert found.layers[name] == pytest.approx(density * dense.layers[name])
    assert dense.layers[name] == 5 * 96 * 32
    assert found.others == ()
    small = dstbench.compact(model, sparsifier.masks, torch.randn(2, 3, 32, 32))
    assert small.compaction.check.ok


class Bare(nn.MultiheadAttention):
    def forward(self, query, key, value):
        return super().forward(query, key, value, need_weights=False)[0]


class Centred(nn.MultiheadAttention):
    def forward(self, query, key, value):
        weight = self.in_proj_weight - self.in_proj_weight.mean()
        out = self.out_proj.weight, self.out_proj.bias
        return nn.functional.multi_head_attention_forward(
            query, key, value, self.embed_dim, 2, weight, self.in_proj_bias, None, None, False, 0.0, *out
        )


@pytest.mark.parametrize(
    ("attention", "sparse"), [(Bare(8, 2), True), (Bare(8, 2, kdim=4, vdim=6), True), (Centred(8, 2), False)]
)
def test_a_subclass_is_masked_where_zeros_stay_zeros(attention, sparse):
    found = owned(attention)
    packed = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    assert bool(packed & found.sparse.keys()) is sparse
    assert sparse or "aten.mean" in found.left_out["in_proj_weight"].reason
