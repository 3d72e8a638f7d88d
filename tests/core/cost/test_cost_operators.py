"""What runs is what is counted, whoever calls it: worked out by hand, a multiply-accumulate a weight and token."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, register_flop_formula

from dstbench.core.cost.cost import cost, counted
from dstbench.core.cost.layers import layer_costs, workload
from dstbench.core.cost.operators import observe
from dstbench.core.cost.training import training_cost
from dstbench.errors import BadInput


class Calling(nn.Module):
    """Layers ``a``, 8 to 8, and ``b``, 8 to 8, called as ``forward`` does."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.call = forward

    def forward(self, *args, **kwargs):
        return self.call(self, *args, **kwargs)


def under_autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.b(m.a(m.a(x)))


def assembled(m, x):
    weight = torch.zeros(9, 8)
    weight[:8] = m.a.weight
    return m.b(functional.linear(x, weight)[:, :8])


# Functions, casts, parts and sums of weights: 64 a whole layer


@pytest.mark.parametrize(
    ("forward", "a", "b"),
    [
        (lambda m, x: m.b(m.a(x)), 64, 64),
        (lambda m, x: functional.linear(functional.linear(x, m.a.weight), m.b.weight), 64, 64),
        (lambda m, x: x @ m.a.weight.t() @ m.b.weight, 64, 64),
        (lambda m, x: m.b(m.b(m.a(x))), 64, 128),
        (lambda m, x: functional.linear(m.a(x), m.a.weight.t()) @ m.b.weight, 128, 64),  # tied to itself
        (lambda m, x: m.b(functional.linear(x.double(), 2 * m.a.weight.double()).float()), 64, 64),
        (lambda m, x: m.b(functional.linear(x, m.a.weight.data)), 64, 64),
        (lambda m, x: functional.linear(x, m.a.weight[:3]) @ m.b.weight[:3], 24, 24),
        (lambda m, x: functional.linear(x, torch.cat([m.a.weight, torch.zeros(1, 8)]))[:, :8] @ m.b.weight, 72, 64),
        (lambda m, x: functional.linear(x, m.a.weight[torch.arange(7, -1, -1)]) @ m.b.weight, 64, 64),
        (lambda m, x: torch.einsum("bi,oi->bo", x, m.a.weight) @ m.b.weight, 64, 64),
        (lambda m, x: torch.mv(m.b.weight, functional.linear(x[0], m.a.weight)), 64, 64),
        (lambda m, x: torch.bmm(x[None].expand(3, -1, -1), m.a.weight.expand(3, -1, -1))[0] @ m.b.weight, 192, 64),
        (lambda m, x: checkpoint(m.a, m.b(x), use_reentrant=False), 64, 64),
        (under_autocast, 128, 64),
        (assembled, 72, 64),
    ],
    ids=[
        "modules", "functions", "operators", "twice", "tied", "cast and scaled", "data", "parts", "joined",
        "permuted", "einsum", "vectors", "batched", "checkpointed", "autocast", "assembled",
    ],
)  # fmt: skip
def test_a_product_belongs_to_the_weight_that_it_reads(forward, a, b):
    found = workload(Calling(forward), (8,))
    assert {name: layer.macs for name, layer in found.costs.items()} == {"a": a, "b": b}
    assert not found.products


def test_the_density_is_that_of_the_weight_that_was_read():
    model = Calling(lambda m, x: m.b(functional.linear(x, m.a.weight)))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0] = True
    found = cost(model, {"a": mask}, (8,))
    assert (found.inference_flops, found.dense_inference_flops, found.macs) == (8 + 64, 128, 128)
    assert found.layers == {"a": 8, "b": 64}
    planned = training_cost(model, "static", 0.25, 10, (8,), dense_layers=["b"])
    assert planned.sparse / planned.dense == (0.25 * 64 + 64) / 128


def test_layers_that_share_a_weight_are_one():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    found = cost(model, {"0": 0.5}, (8,))
    assert (found.macs, found.inference_flops, found.weights, dict(found.layers)) == (128, 64, 64, {"0": 64})


# Attention


def test_packed_projections_are_layers_and_attentions_own_products_are_apart():
    model = nn.Sequential(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 10)).eval()
    names = ("self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2")
    masked = {**{f"0.{name}": 0.1 for name in names}, "0.self_attn.in_proj_weight": 0.5, "1": 0.1}
    found = cost(model, masked, (16, 32))
    layers, packed, attention = 16 * (32 * 32 + 2 * 32 * 64 + 320), 16 * 32 * 96, 2 * 16 * 16 * 32
    assert (found.macs, found.others) == (layers + packed, ())
    assert found.inference_flops == pytest.approx(0.1 * layers + 0.5 * packed)
    assert sum(found.products.values()) == attention
    assert found.all_macs == layers + packed + attention
    assert found.active_parameters == found.parameters - round(0.9 * (32 * 32 + 2 * 32 * 64 + 320)) - 1536


@pytest.mark.parametrize("weights", [True, False])
def test_every_projection_of_cross_attention(weights):
    attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=6)
    queries, keys, values = torch.zeros(1, 3, 8), torch.zeros(1, 5, 4), torch.zeros(1, 5, 6)
    example = {"query": queries, "key": keys, "value": values, "need_weights": weights}
    found = counted(attention, example_input=example)
    assert {name: layer.macs for name, layer in found.costs.items()} == {
        "out_proj": 3 * 64, "q_proj_weight": 3 * 64, "k_proj_weight": 5 * 32, "v_proj_weight": 5 * 48,
    }  # fmt: skip
    assert sum(found.workload.products.values()) == 2 * 3 * 5 * 8


def test_a_packed_projection_read_in_parts():
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    found = layer_costs(layer, example_input=(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)))
    assert found["multihead_attn.in_proj_weight"].macs == 3 * 64 + 5 * 128
    assert found["self_attn.in_proj_weight"].macs == 3 * 192


def test_learned_and_fixed_sides_of_attention_are_no_layers():
    """Positions looked up in a table, as in MViT and SAM, are attention's; a projection stacked by head isn't."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.positions = nn.Parameter(torch.zeros(2, 8, 4)), nn.Parameter(torch.zeros(9, 4))
            self.register_buffer("rotation", torch.zeros(2, 4, 4))

        def forward(self, x):
            q = torch.einsum("bti,hio->bhto", x, self.heads)
            table = self.positions[torch.zeros(5, 5, dtype=torch.long)]
            q = q @ self.rotation
            return torch.einsum("bhtc,tkc->bhtk", q, table)

    found = workload(Attention(), (5, 8))
    assert {name: weight.macs for name, weight in found.costs.items()} == {"heads": 5 * 2 * 8 * 4}
    assert found.products == {"bmm": 5 * 2 * 4 * 4 + 2 * 5 * 5 * 4}


# Recurrent layers


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recurrent_weights(kind, gates, dtype):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.head = kind(8, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x):
            return self.head(self.cells(x)[0][:, -1])

    found = cost(Last().to(dtype), {"head": 0.5}, (8, 8))
    assert found.macs == 8 * gates * 32 * (8 + 32) + 320
    assert found.dense_inference_flops - found.inference_flops == 160
    assert found.others == ("cells.weight_ih_l0", "cells.weight_hh_l0")


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_recurrent_layers_of_every_make():
    both = nn.LSTM(8, 32, num_layers=2, bidirectional=True)
    assert cost(both, None, (8, 8)).macs == 8 * 2 * 128 * ((8 + 32) + (64 + 32))
    assert cost(nn.LSTM(8, 32, proj_size=16), None, (8, 8)).macs == 8 * (128 * (8 + 16) + 16 * 32)
    assert cost(nn.LSTMCell(8, 4), None, (8,)).macs == 16 * (8 + 4)


def test_padding_of_packed_sequences_is_not_run():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.LSTM(8, 4)

        def forward(self, x, lengths):
            return self.cells(nn.utils.rnn.pack_padded_sequence(x, lengths))[0].data

    found = cost(Packed(), example_input=(torch.zeros(5, 2, 8), torch.tensor([5, 3])))
    assert found.macs == (5 + 3) * 16 * (8 + 4)


def test_recurrent_layers_as_one_operator_of_cudnn():
    """Called as a GPU's layer would, on tensors without memory."""
    with torch.device("meta"):
        cells, x, state = nn.LSTM(8, 4), torch.zeros(5, 2, 8), torch.zeros(1, 2, 4)
    weights = [parameter.detach() for parameter in cells.parameters()]
    names = [name for name, _ in cells.named_parameters()]
    with torch.no_grad(), observe(dict(zip(names, weights, strict=True)), {}, [x]) as seen:
        torch._cudnn_rnn(x, weights, 4, None, state, state, 2, 4, 0, 1, False, 0.0, False, False, [], None)
    assert {product.weight: product.macs for product in seen.products} == {
        "weight_ih_l0": 5 * 2 * 16 * 8, "weight_hh_l0": 5 * 2 * 16 * 4,
    }  # fmt: skip


# Weights that no layer holds


def test_weights_that_are_computed_are_named_and_dense():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(8, 8)
            self.up, self.down = nn.Parameter(torch.zeros(8, 2)), nn.Parameter(torch.zeros(2, 8))

        def forward(self, x):
            x = functional.linear(x, self.base.weight + self.up @ self.down)
            return functional.linear(x, self.up @ self.down)

    found = layer_costs(Adapted(), (8,))
    assert {name: weight.macs for name, weight in found.items()} == {
        "base": 64, "down": 2 * 8 * 2 * 8, "(up @ down)": 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (nn.utils.parametrizations.weight_norm, "0"),
        (nn.utils.parametrizations.spectral_norm, "0"),
    ],
)
def test_parametrized_layers(wrap, name):
    found = workload(nn.Sequential(wrap(nn.Linear(8, 8)), nn.Linear(8, 2)), (8,))
    assert {n: weight.macs for n, weight in found.others.items()} == {name: 64}
    assert found.layers["1"].macs == 16


def test_stacked_experts_fixed_filters_and_bilinear_forms():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.blur = nn.Parameter(torch.zeros(4, 8, 16)), torch.nn.Module()
            self.blur.register_buffer("filter", torch.ones(1, 1, 3))
            self.form = nn.Bilinear(16, 16, 5)

        def forward(self, x):
            x = torch.bmm(x.expand(4, -1, -1), self.experts).mean(0)
            x = functional.conv1d(x[:, None], self.blur.filter, padding=1)[:, 0]
            return self.form(x, x)

    found = layer_costs(Experts(), (8,))
    assert {name: weight.macs for name, weight in found.items()} == {
        "experts": 4 * 8 * 16, "blur.filter": 16 * 3, "form": 5 * 16 * 16,
    }  # fmt: skip


# Compiled models, dtypes


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


@pytest.mark.parametrize("where", ["model", "in place", "a part"])
@pytest.mark.parametrize("ran", [False, True])
def test_a_compiled_model_costs_what_it_costs_uncompiled(where, ran):
    model = convnet()
    compiled = torch.compile(model, backend="eager") if where == "model" else model
    if where == "in place":
        model.compile(backend="eager")
    elif where == "a part":
        compiled = nn.Sequential(torch.compile(model[:2], backend="eager"), *model[2:])
    if ran:
        with torch.no_grad():
            compiled.eval()(torch.zeros(1, 3, 8, 8))
    found = cost(compiled, None, (3, 8, 8))
    assert found.macs == found.inference_flops == 8 * 64 * 27 + 80
    first, last = found.layers
    sparse = cost(compiled, {first: torch.arange(216).view(8, 3, 3, 3) % 4 == 0}, (3, 8, 8))
    assert sparse.inference_flops == 8 * 64 * 27 / 4 + 80
    assert {first, last} == ({"0.0", "3"} if where == "a part" else {"0", "4"})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_in_another_dtype_costs_the_same(dtype):
    assert counted(convnet().to(dtype), None, (3, 8, 8)) == counted(convnet(), None, (3, 8, 8))
    assert torch.backends.mha.get_fastpath_enabled()


# Inputs


class Tagger(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids, mask=None):
        x = self.words(ids)
        return {"logits": self.head(x if mask is None else x * mask[..., None])}


IDS, MASK = torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7)


@pytest.mark.parametrize(
    "example", [IDS, (IDS, MASK), {"mask": MASK, "ids": IDS}], ids=["one", "two", "named"]
)
def test_integer_several_and_keyword_inputs(example):
    found = cost(Tagger(), {"head": 0.5}, example_input=example)
    assert (found.macs, found.inference_flops) == (7 * 800, 7 * 400)  # looking words up costs nothing
    planned = training_cost(Tagger(tied=False), "static", 0.25, 4, example_input=example)
    assert planned.ratio() == 0.25


def test_an_example_is_counted_as_it_is_on_the_models_device():
    with torch.device("meta"):
        model = Tagger()
    assert cost(model, example_input=IDS.expand(3, 7)).macs == 3 * 7 * 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (7,)}, r"input_shape: Tagger can't take \(7,\) \(see example_input\): .*Long"),
        ({"example_input": MASK}, r"example_input: Tagger can't take float32 \[1, 7\]: .*Long"),
        ({"example_input": [IDS]}, r"example_input: expected a tensor, a tuple.*got list"),
        ({"example_input": {"id": IDS}}, r"example_input: Tagger can't take int64 \[1, 7\]: .*'id'"),
    ],
)
def test_bad_inputs_are_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        cost(Tagger(), **arguments)


# What isn't seen


def test_a_layer_that_is_not_reached_is_named():
    with pytest.warns(UserWarning, match=r"Calling: this input doesn't reach 'b': counted as nothing"):
        found = cost(Calling(lambda m, x: m.a(x)), None, (8,))
    assert (found.unused, found.macs, found.layers["b"]) == (("b",), 64, 0)


def test_a_layer_that_runs_unseen_is_refused():
    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            return torch.from_numpy(x.numpy() @ weight.detach().numpy().T)

    class Own(nn.Linear):
        def forward(self, x):
            return Kernel.apply(x, self.weight)

    with pytest.raises(BadInput, match=r"'0': the layer ran, but no product with its weight was seen"):
        cost(nn.Sequential(Own(8, 4), nn.Linear(4, 2)), None, (8,))


def test_a_custom_operator_needs_a_formula():
    @torch.library.custom_op("dstbench_test::multiply", mutates_args=())
    def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.t()

    model = Calling(lambda m, x: m.b(multiply(x, m.a.weight)))
    with pytest.raises(
        BadInput, match=r"'a' is read by the operator dstbench_test.multiply.*register_flop_formula"
    ):
        cost(model, None, (8,))
    operator = torch.ops.dstbench_test.multiply

    @register_flop_formula(operator)
    def formula(x, weight, out_shape=None):
        return 2 * x[0] * weight[0] * weight[1]

    try:
        assert cost(model, {"a": 0.5}, (8,)).inference_flops == 32 + 64
    finally:
        del flop_registry[operator]
