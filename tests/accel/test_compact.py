"""Dead channels cut out: the same outputs from a smaller network, or the channel stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.accel.compact import compact, masked_copy
from dstbench.accel.inference import accelerate
from dstbench.api import StrategyError
from dstbench.core.network.channels import channels, removable
from dstbench.errors import BadInput
from dstbench.registration.registry import registry

CHANNEL = {"structure": "channel", "grow": "gradient", "schedule": {"name": "cosine", "delta_t": 3}}


def trained(model: nn.Module, shape: tuple[int, ...], steps: int = 20, density: float = 0.3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sparsifier = dstbench.Sparsifier(model, optimizer, CHANNEL, density, total_steps=steps)
    images, labels = torch.randn(8, *shape), torch.randint(0, 10, (8,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
    return sparsifier, images


@pytest.mark.parametrize(("name", "shape"), [("small_cnn", (1, 8, 8)), ("cifar_resnet_20", (3, 16, 16))])
def test_channel_sparse_models_shrink_and_keep_their_outputs(name, shape):
    torch.manual_seed(0)
    model = registry().build("model", name)(num_classes=10, input_shape=shape)
    sparsifier, images = trained(model, shape, steps=10)
    small = compact(model, sparsifier.masks, images)
    model.eval()
    torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)
    full, left = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert left < 0.6 * full
    theory = dstbench.cost(model, sparsifier.masks, shape)
    assert theory.hardware_flops == dstbench.cost(small, None, shape).inference_flops
    assert accelerate(model, sparsifier.masks, "channel", images).execution_path == "compacted"
    assert accelerate(model, sparsifier.masks, "unstructured").execution_path == "masked-dense"


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


def test_dead_rows_are_silent_after_the_last_update():
    torch.manual_seed(0)
    model = chain()
    sparsifier, images = trained(model, (3, 8, 8))
    conv, norm = model[:2]
    dead = ~sparsifier.masks["0"].flatten(1).any(1)
    assert dead.any()
    for mode in (True, False):
        model.train(mode)
        assert not norm(conv(images))[:, dead].any()


def test_dead_rows_can_be_grown_before_the_last_update():
    """Behind a ReLU a row of zero weights without a bias would get no gradient, and stay where it is."""
    torch.manual_seed(0)
    model = chain()
    with torch.no_grad():
        model[1].bias.fill_(0.1)
    sparsifier, images = trained(model, (3, 8, 8), steps=20)
    assert sparsifier.last_update == 12
    model = chain()
    with torch.no_grad():
        model[1].bias.fill_(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = dstbench.Sparsifier(model, optimizer, CHANNEL, 0.3, total_steps=20)
    dead = ~sparsifier.masks["0"].flatten(1).any(1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.randint(0, 10, (8,))).backward()
        assert model[0].weight.grad[dead].flatten(1).any(1).all()
        sparsifier.step()


def test_a_norm_that_still_adds_a_constant_keeps_its_channel():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    mask = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    mask[:2] = False
    with torch.no_grad():
        model[0].bias.zero_()
        model[1].bias[0] = 0.5  # behind the ReLU a constant that the last layer reads
    model[3] = nn.Conv2d(4, 5, 3, padding=1)
    small = compact(model, {"0": mask}, torch.randn(2, 3, 8, 8))
    assert small[0].out_channels == 3
    assert small[3].in_channels == 3
    assert small.compaction.kept == {"0": "3 pads the constant that they send"}


def test_rows_that_meet_an_addition_stay():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x))) + x

    model, mask = Residual(), torch.zeros(4, 4, 1, 1, dtype=torch.bool)
    mask[0] = True
    rows = removable(model, {"first": mask, "second": mask}).rows
    assert list(rows) == ["first"]
    assert rows["first"].tolist() == [False, True, True, True]
    assert "add" in channels(model).blocked("second")


def test_a_model_that_cannot_be_traced_is_left_as_it_is():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.layer(x)) if x.sum() > 0 else self.last(x)

    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    model = Branching()
    small = compact(model, {"layer": mask}, torch.ones(1, 4))
    assert small.layer.out_features == 4
    assert torch.equal(small(torch.ones(1, 4)), masked_copy(model, {"layer": mask})(torch.ones(1, 4)))


def test_throughput_says_how_it_was_measured():
    model = nn.Linear(8, 8).train()
    measured = dstbench.throughput(model, torch.randn(4, 8), rounds=5, warmup=1)
    assert measured.images_per_second > 0
    assert measured.latency_low <= measured.latency_median <= measured.latency_high
    assert (measured.batch_size, measured.rounds, measured.dtype) == (4, 5, "float32")
    assert model.training


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"conv9": torch.ones(1, dtype=torch.bool)}, "masks: no layer 'conv9'; did you mean 'conv"),
        (
            {"fc2": torch.ones(3, dtype=torch.bool)},
            r"layer 'fc2': expected .* shape \(10, 128\), got torch.bool \(3,\)",
        ),
        ({"fc2": torch.ones(10, 128)}, "got torch.float32"),
        ({"fc2": 0.5}, "got float"),
    ],
)
def test_masks_that_fit_no_layer_are_refused(masks, message):
    model = registry().build("model", "small_cnn")(num_classes=10, input_shape=(1, 8, 8))
    for call in (compact, accelerate):
        arguments = (torch.zeros(1, 1, 8, 8),) if call is compact else ("channel",)
        with pytest.raises(BadInput, match=message):
            call(model, masks, *arguments)


def test_accelerate_takes_a_structure_by_name_mapping_or_object():
    torch.manual_seed(0)
    model = registry().build("model", "small_cnn")(num_classes=10, input_shape=(1, 8, 8))
    sparsifier, images = trained(model, (1, 8, 8), steps=4)
    for structure in ("channel", {"name": "channel"}, registry().build("structure", "channel")):
        assert accelerate(model, sparsifier.masks, structure, images).execution_path == "compacted"


class Functional(nn.Module):
    """One of its layers' weights is also used by a function, across."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tied = nn.functional.linear(x, self.layers[2].weight.t()) * 0
        for layer in self.layers:
            x = layer(x)
        return self.last(x) + tied.sum()


def test_channels_without_which_a_model_can_not_run_stay_and_are_named():
    masks = {f"layers.{i}": torch.ones(4, 4, dtype=torch.bool) for i in range(5)}
    for i, mask in enumerate(masks.values()):
        mask[i % 4] = False
    model, x = Functional(), torch.randn(3, 4)
    small = compact(model, masks, x)
    assert small.compaction.removed == {f"layers.{i}": (i % 4,) for i in (0, 1, 3, 4)}  # not its rows
    assert set(small.compaction.kept) == {"layers.2"}
    assert small.compaction.kept["layers.2"].startswith("can't run with fewer channels: mat1 and mat2")
    torch.testing.assert_close(small(x), masked_copy(model, masks)(x))
    widths = dstbench.cost(model, masks, example_input=x).hardware_flops
    assert widths == dstbench.cost(small, example_input=x).inference_flops


class Reshaped(nn.Module):
    """Its input's width comes out again, whatever the layers in between make."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        return self.last(self.inner(x).softmax(1).reshape(n, c, h, w))


def test_a_width_that_is_read_keeps_its_channels():
    masks = {"first": torch.ones(8, 3, 1, 1, dtype=torch.bool)}
    masks["first"][[1, 4]] = False
    small = compact(Reshaped(), masks, torch.randn(2, 3, 4, 4))
    assert small.compaction.removed == {}
    assert "reshape" in small.compaction.kept["first"] or "shape" in small.compaction.kept["first"]


def test_a_model_that_is_never_the_same_is_refused():
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.rand(())

    with pytest.raises(StrategyError, match="nothing was removed from computes something else"):
        compact(nn.Sequential(Noisy(4, 4)), {}, torch.ones(1, 4))


class TwoInputs(nn.Module):
    """Two layers that add up, and one that reads the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.last(torch.relu(self.one(x)) + torch.relu(self.two(other)))
        return logits, {"classes": logits.argmax(1)}


def two_masks() -> dict[str, torch.Tensor]:
    masks = {"one": torch.ones(8, 4, dtype=torch.bool), "two": torch.ones(8, 3, dtype=torch.bool)}
    for mask in masks.values():
        mask[[1, 6]] = False
    return masks


def test_several_inputs_and_nested_outputs():
    torch.manual_seed(0)
    model, masks, x, other = TwoInputs(), two_masks(), torch.randn(5, 4), torch.randn(5, 3)
    for inputs in ((x, other), {"other": other, "x": x}):
        small = compact(model, masks, inputs)
        assert small.one.out_features == 6
        assert len(small.compaction.check.compared) == 2
        assert small.compaction.check.difference <= 1e-6
        fast = accelerate(model, masks, "channel", inputs)
        assert fast.execution_path == "compacted"
        assert fast.check.ok
        assert accelerate(model, masks, "unstructured", inputs).check.ok
    assert accelerate(model, masks, "channel").check is None
    with pytest.raises(BadInput, match="example_input: expected a tensor, a tuple"):
        compact(model, masks, [x, other])


def test_channels_without_which_a_part_of_the_output_differs_stay():
    class Width(TwoInputs):
        def forward(self, x: torch.Tensor, other: torch.Tensor) -> dict[str, object]:
            logits, _ = super().forward(x, other)
            return {"logits": logits, "rest": [logits * float(self.one.out_features)]}

    inputs = (torch.randn(5, 4), torch.randn(5, 3))
    small = compact(Width(), two_masks(), inputs)
    assert small.compaction.removed == {}
    assert set(small.compaction.kept) == {"one", "two"}
    assert "something else with fewer channels: output['rest'][0]: 2.5e-01" in small.compaction.kept["one"]


@pytest.mark.parametrize(
    ("dtype", "at_most"), [(torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-12)]
)
def test_rounding_of_a_dtype_is_no_difference(dtype, at_most):
    torch.manual_seed(0)
    layers, width = [], 3
    for _ in range(5):
        layers += [nn.Conv2d(width, 64, 1), nn.BatchNorm2d(64), nn.ReLU()]
        width = 64
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    masks = {str(i): torch.ones_like(model[i].weight, dtype=torch.bool) for i in range(0, 15, 3)}
    for i, mask in enumerate(masks.values()):
        mask[torch.randperm(64)[:40]] = False
        nn.init.normal_(model[3 * i + 1].bias)
        nn.init.normal_(model[3 * i + 1].running_mean)
    small = compact(model.to(dtype), masks, torch.randn(8, 3, 8, 8, dtype=dtype))
    assert len(small.compaction.folded) == 5
    assert small.compaction.check.difference <= small.compaction.check.limit
    assert small.compaction.check.difference <= at_most
    assert small[3].weight.dtype == small[3].bias.dtype == dtype


def test_a_wrong_compaction_in_half_precision_is_still_not_taken(monkeypatch):
    import dstbench.core.network.carve as module

    monkeypatch.setattr(module, "_fold", lambda model, removal: {})
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16()
    nn.init.ones_(model[0].bias)
    mask = torch.zeros(8, 4, dtype=torch.bool)
    mask[0] = True
    small = compact(model, {"0": mask}, torch.randn(5, 4, dtype=torch.bfloat16))
    assert small.compaction.removed == {}
    assert "limit 1e-01" in small.compaction.kept["0"]
