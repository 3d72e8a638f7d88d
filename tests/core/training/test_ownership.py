"""What a Sparsifier may change, and when: several optimizers, weights that stay dense, all or nothing."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import dstbench
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, mlp, recipe, sgd

CONSTANT = recipe("constant", 3, grow="gradient")


def loss_of(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def split(model, kind=torch.optim.AdamW):
    """An optimizer of the hidden layers and one of all else."""
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not h for h in hidden)]
    return torch.optim.SGD(hidden, lr=0.1, momentum=0.9), kind(rest, lr=1e-2)


def run(model, optimizers, step, steps=12):
    for batch in batches(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(model, batch).backward()
        step()


def same_as_one(model, sparsifier):
    """Two groups of one optimizer are two optimizers of it."""
    alone = mlp()
    hidden = [alone[0].weight, alone[2].weight]
    rest = [p for p in alone.parameters() if all(p is not h for h in hidden)]
    one = torch.optim.SGD([{"params": hidden}, {"params": rest, "lr": 1e-2}], lr=0.1, momentum=0.9)
    other = dstbench.Sparsifier(alone, one, CONSTANT, 0.2, total_steps=40)
    run(alone, [one], other.step)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), alone.parameters(), strict=True))
    assert sparsifier.history == other.history


def sgds(model):
    return split(model, lambda rest, lr: torch.optim.SGD(rest, lr=lr, momentum=0.9))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("own", [True, False], ids=["step", "steps of their own"])
def test_several_optimizers_train_as_one(own, order):
    model = mlp()
    optimizers = sgds(model)[::order]
    sparsifier = dstbench.Sparsifier(model, list(optimizers), CONSTANT, 0.2, total_steps=40)
    counted = []
    optimizers[0].register_step_post_hook(lambda *_: counted.append(sparsifier.steps))

    def apart():
        for optimizer in optimizers:
            optimizer.step()

    run(model, optimizers, sparsifier.step if own else apart)
    assert counted == list(range(12))  # a step is done behind the last of them
    assert sparsifier.updates == 4
    assert_masked(sparsifier)
    same_as_one(model, sparsifier)


def test_muon_and_adamw():
    model = mlp()
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not h for h in hidden)]
    optimizers = torch.optim.Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=1e-2)
    sparsifier = dstbench.Sparsifier(model, optimizers, CONSTANT, 0.2, total_steps=40)
    run(model, optimizers, sparsifier.step, 20)
    assert sparsifier.steps == 20
    assert int(sum(model[i].weight.count_nonzero() for i in (0, 2, 4))) == round(0.2 * 736)


def test_a_closure_is_evaluated_once_for_all():
    model, calls = mlp(), []
    optimizers = sgds(model)
    sparsifier = dstbench.Sparsifier(model, optimizers, CONSTANT, 0.2, total_steps=40)
    for batch in batches(12):

        def closure(batch=batch):
            calls.append(1)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        assert sparsifier.step(closure).item() > 0
    assert len(calls) == 12
    same_as_one(model, sparsifier)


def test_a_step_that_one_optimizer_skips_is_no_step():
    """As a loss scaler does where its gradients overflow: the others' were applied, to weights inside the masks."""
    model = mlp()
    first, second = sgds(model)
    sparsifier = dstbench.Sparsifier(model, [first, second], CONSTANT, 0.2, total_steps=40)
    for i, batch in enumerate(batches(12)):
        first.zero_grad(), second.zero_grad()
        loss_of(model, batch).backward()
        if i % 3:
            first.step()
        second.step()
        assert_masked(sparsifier)
    assert sparsifier.steps == 8
    assert [report.step for report in sparsifier.history] == [3, 6]


def test_an_optimizer_that_never_steps_is_said():
    model = mlp()
    first, second = sgds(model)
    sparsifier = dstbench.Sparsifier(model, [first, second], CONSTANT, 0.2, total_steps=40)
    with pytest.warns(UserWarning, match=r"32 times in a row SGD didn't step"):
        run(model, [first, second], second.step, 40)
    assert sparsifier.steps == 0


@pytest.mark.parametrize("storage", ["masked", "condensed"])
def test_checkpoints_of_several_continue_exactly(storage):
    def fresh():
        model = mlp()
        optimizers = sgds(model)
        example = torch.zeros(32, 12)
        return (
            model,
            optimizers,
            dstbench.Sparsifier(
                model, optimizers, CONSTANT, 0.2, total_steps=40, storage=storage, example_input=example
            ),
        )

    model, optimizers, sparsifier = fresh()
    run(model, optimizers, sparsifier.step, 5)
    saved = copy.deepcopy(
        [model.state_dict(), *(o.state_dict() for o in optimizers), sparsifier.state_dict()]
    )
    run(model, optimizers, sparsifier.step, 7)
    again, others, resumed = fresh()
    for part, state in zip((again, *others, resumed), saved, strict=True):
        part.load_state_dict(state)
    run(again, others, resumed.step, 7)
    assert resumed.history == sparsifier.history
    left, right = model.state_dict(), again.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_weight_in_two_optimizers_is_refused():
    model = mlp()
    with pytest.raises(BadInput, match=r"several hold '0.weight'"):
        dstbench.Sparsifier(model, [sgd(model), sgd(model)], total_steps=5)
    with pytest.raises(BadInput, match=r"the SGD at 1 holds none"):
        dstbench.Sparsifier(model, [sgd(model), sgd(mlp())], total_steps=5)
    with pytest.raises(BadInput, match=r"empty list"):
        dstbench.Sparsifier(model, [], total_steps=5)


def partly(model):
    return sgd(model[2])


def test_weights_in_no_optimizer_stay_dense_and_are_said():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(
        UserWarning, match=r"352 of 736 matrix weights stay dense .*0 \(no optimizer.*summary\(\)"
    ) as said:
        sparsifier = dstbench.Sparsifier(model, partly(model), recipe(), 0.25, total_steps=40)
    assert said[0].filename == __file__
    assert list(sparsifier.layers) == ["2"]
    assert sparsifier.density == 0.25
    assert sparsifier.total_density == (96 + 352) / 736
    table = sparsifier.summary().set_index("layer")
    assert table["structure"].to_dict()["0"] == "dense: no optimizer that was given holds it"
    assert table["active"].sum() / table["weights"].sum() == sparsifier.total_density
    assert table.attrs == {"density": 0.25, "total_density": sparsifier.total_density}
    run(model, [sparsifier.optimizer], sparsifier.step)
    for name in ("0.weight", "4.weight"):
        assert torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize("structure", ["unstructured", "channel"])
def test_what_is_frozen_is_never_changed(structure):
    """Not the biases of dead rows either."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    with torch.no_grad():
        model[1].bias.normal_()
    for frozen in (model[0], model[1], model[3].bias):
        frozen.requires_grad_(False)
    kept = [model[0].weight, model[0].bias, model[1].weight, model[1].bias, model[3].bias]
    before = [tensor.clone() for tensor in kept]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.warns(UserWarning, match="0 .it is frozen"):
        sparsifier = dstbench.Sparsifier(
            model, optimizer, recipe(structure=structure, grow="random", init="uniform"), 0.3, total_steps=20
        )
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.randint(0, 10, (4,))).backward()
        sparsifier.step()
    assert sparsifier.updates > 0
    assert all(torch.equal(tensor, old) for tensor, old in zip(kept, before, strict=True))


def test_a_dense_recipe_has_nothing_to_warn_of():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, partly(model), "dense", total_steps=40)
    assert sparsifier.total_density == 1


FAMILIES = (
    "test_resnet", "test_vit", "test_efficientnet", "test_nfnet", "test_byobnet", "test_convnext", "test_mambaout",
    "resnetv2_50x1_bit", "nf_regnet_b0", "tf_mobilenetv3_small_minimal_100", "mobilenetv3_small_050",
    "ghostnet_050", "lcnet_035", "regnetx_002", "convnextv2_atto", "mobilevitv2_050", "edgenext_xx_small",
     "efficientvit_b0", "repvgg_a0", "mixer_s32_224", "pvt_v2_b0",
    "vit_tiny_r_s16_p8_224", "levit_128s",
)  # fmt: skip
SLIM = {"resnetv2_50x1_bit": {"channels": (128, 256, 512, 1024)}}  # half its width: norms have 32 groups


class Weights(TorchDispatchMode):
    """The second factors of convolutions and matrix products, as weights are shaped."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.convolution:
            self.found.append(args[1])
        elif func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.found.append(args[-1].T)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_called_sparse_multiplies_sparse(name):
    """In each layer of the budget, in what convolutions and matrix products of the whole model really get."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **SLIM.get(name, {})).eval()
    method = {"init": "uniform", "grow": "random", "schedule": "never"}
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.1, total_steps=1)
    made_for = model.default_cfg["input_size"][-1]
    size = made_for if model.default_cfg.get("fixed_input_size") else min(made_for, 96)
    with torch.no_grad(), Weights() as used:
        model(torch.zeros(1, 3, size, size))
    dense = {left.shape for left in sparsifier.left_out.values()}
    sparse = {tuple(layer.info.shape): name for name, layer in sparsifier.layers.items()}
    met = set()
    for weight in used.found:
        shape = tuple(weight.shape)
        if shape in sparse and shape not in dense:
            met.add(shape)
            assert int(weight.count_nonzero()) <= 0.1 * weight.numel() + 1, sparse[shape]
    assert met == sparse.keys() - dense
