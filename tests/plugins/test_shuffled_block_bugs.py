"""What goes wrong in the code published with shuffled blocks, bug by bug, and must not here.

The numbers are ours, in the order in which a reader of that code meets them.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import dstbench
from dstbench.accel.kernels.groups import layout
from dstbench.api import LayerInfo, LayerView, StrategyError
from dstbench.runner.matrix.config import Training
from dstbench.runner.trial.optimization import build_schedule
from dstbench_plugins.structure.shuffled_block import ShuffledBlock
from fakes.engine import assert_masked, settle, sgd, train

STEPS, DELTA_T, LAST = 24, 3, 17  # updates at 3, 6, …, 15, since T_end is at three quarters


class Net(nn.Sequential):
    """Two convolutions without biases and a linear classifier; 27 and 10 are no multiples of 4."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(16, 10, 3, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(10, 4),
        )
        settle(self)


class Training24:
    """A training of 24 steps by a recipe: the masks and weights of every step, and the sparsifier."""

    def __init__(self, recipe: str, **parameters: object) -> None:
        self.model = Net()
        self.sparsifier = dstbench.Sparsifier(
            self.model,
            sgd(self.model),
            recipe={"name": recipe, **parameters},
            density=0.4,
            total_steps=STEPS,
        )
        self.masks: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []
        self._record()
        train(self.model, self.sparsifier, STEPS, shape=(4, 3, 8, 8), after=self._record)

    def _record(self) -> None:
        assert_masked(self.sparsifier)
        layers = self.sparsifier.layers
        self.masks.append(self.sparsifier.masks)
        self.weights.append({name: layer.weight.detach().clone() for name, layer in layers.items()})

    def changed(self, name: str) -> list[int]:
        """The steps at which a layer's mask changed."""
        steps = enumerate(pairwise(self.masks), start=1)
        return [step for step, (one, two) in steps if not torch.equal(one[name], two[name])]


@pytest.fixture(scope="module")
def dsb() -> Training24:
    return Training24("dsb", block_size=4, delta_t=DELTA_T)


def test_dsb_bug_1_convolutions_move_in_the_baseline_too():
    """There, block size 0 means "RigL", and leaves every convolution's mask as it was."""
    rigl = Training24("rigl", delta_t=DELTA_T)
    assert all(rigl.changed(name) for name in ("0", "2"))
    with pytest.raises(StrategyError, match="block_size"):
        ShuffledBlock(0)


def test_dsb_bug_2_masks_change_at_multiples_of_delta_t_before_t_end_only(dsb):
    """There, `A and B and C or D` updates at every step."""
    steps = {step for name in dsb.masks[0] for step in dsb.changed(name)}
    assert steps
    assert steps <= {report.step for report in dsb.sparsifier.history} == set(range(DELTA_T, LAST, DELTA_T))


def test_dsb_bug_3_static_blocks_never_move():
    """There, one of the scripts ignores the flag, so that its static method is dynamic."""
    ssb = Training24("ssb", block_size=4)
    assert not any(ssb.changed(name) for name in ssb.masks[0])
    assert not ssb.sparsifier.history


def test_fast_blocks_move_whole_columns_and_static_ones_stay():
    fast, still = Training24("dsb-fast", block_size=4, delta_t=DELTA_T), Training24("ssb-fast", block_size=4)
    assert fast.changed("2")
    structure = ShuffledBlock(4, columns="channel", balanced=True)
    for masks in fast.masks:
        assert all(
            structure.is_legal(fast.sparsifier.layers[name].info, mask) for name, mask in masks.items()
        )
    assert not any(still.changed(name) for name in still.masks[0])


def test_dsb_bug_4_whatever_becomes_active_starts_at_exactly_zero(dsb):
    """There, most entries that extraction adds carry what is left of a dense step."""
    grown = 0
    for (before, after), weights in zip(pairwise(dsb.masks), dsb.weights[1:], strict=True):
        for name in after:
            new = after[name] & ~before[name]
            grown += int(new.sum())
            assert not weights[name][new].any()
    assert grown


def test_dsb_bug_5_what_moved_is_logged_as_it_was(dsb):
    """There, the block filter and the extraction change any number of entries, and nothing says so."""
    for report in dsb.sparsifier.history:
        before, after = dsb.masks[report.step - 1], dsb.masks[report.step]
        assert report.grown == sum(int((after[name] & ~before[name]).sum()) for name in after)
        assert report.dropped == sum(int((before[name] & ~after[name]).sum()) for name in after)
        assert report.active == sum(int(mask.sum()) for mask in after.values())


def test_dsb_bug_6_the_learning_rate_rises_once_and_falls_where_it_is_told_to():
    """There, it starts at a fifth, is zero for an epoch, and its decays come six epochs late."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(epochs=100, lr=0.1, schedule="multistep", milestones=(30, 70, 90), warmup_epochs=5)
    set_rate = build_schedule(optimizer, training, steps_per_epoch=2)
    rates = []
    for step in range(200):
        set_rate(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert all(one < two for one, two in pairwise(rates[:11]))
    assert [epoch / 2 for epoch in range(11, 200) if rates[epoch] != rates[epoch - 1]] == [30, 70, 90]
    assert rates[10] == 0.1


def built(name: str, classes: int, pixels: int = 32) -> nn.Module:
    """A registered model without memory for its weights."""
    with torch.device("meta"):
        return dstbench.registry().build("model", name)(num_classes=classes, input_shape=(3, pixels, pixels))


@pytest.mark.parametrize("name", ["alexnet-s", "vgg-c", "vgg-d", "vgg-like", "wrn-16-10", "resnet18-cifar"])
@pytest.mark.parametrize("classes", [10, 100])
def test_dsb_bugs_8_and_10_every_model_runs_for_any_number_of_classes(name, classes):
    """There, VGG-C meets a linear layer of another size, and the classes are fixed by the model's name."""
    assert built(name, classes)(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, classes)


def test_dsb_bug_9_convolutions_without_biases_have_none(dsb):
    """There, the sparse layer ignores bias=False."""
    assert [name for name, _ in dsb.model.named_parameters()] == [
        "0.weight",
        "2.weight",
        "5.weight",
        "5.bias",
    ]


@pytest.mark.parametrize("shape", [(256, 96, 5, 5), (160, 16, 3, 3), (10, 7, 3, 3), (4, 3, 3, 3)])
def test_dsb_bug_11_columns_need_not_divide_into_blocks(shape):
    """There, it crashes where C · k² % B isn't 0: AlexNet's conv2 and WRN-16-10 with blocks of 64."""
    structure, info = ShuffledBlock(64), LayerInfo("conv", shape, "conv")
    assert shape[0] % 64 or info.numel // shape[0] % 64
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    empty = torch.zeros(shape, dtype=torch.bool)
    n = info.numel // 5
    mask = structure.fill(LayerView(info, scores, empty, empty, 0, n), scores, n)
    assert structure.is_legal(info, mask)
    assert abs(int(mask.sum()) - n) <= structure.unit(info) / 2


def test_dsb_bug_12_models_return_logits():
    """There, log-probabilities go into a loss that takes their logarithm again."""
    model = dstbench.registry().build("model", "small_cnn")(num_classes=10, input_shape=(1, 8, 8))
    total = model(torch.zeros(2, 1, 8, 8)).exp().sum(1)
    assert not torch.isclose(total, torch.ones(2)).any()


def test_dsb_bug_13_the_budget_is_what_the_blocks_hold_and_stays(dsb):
    """There, blocks round up and the drop count is taken from the density before that."""
    for masks in dsb.masks:
        for name, mask in masks.items():
            info = dsb.sparsifier.layers[name].info
            groups = layout(mask, 4)
            height = torch.full((len(groups.ptr) - 1,), 4)
            height[-1] = info.shape[0] - 4 * (len(height) - 1)
            assert int(mask.sum()) == int((groups.ptr.diff() * height).sum())
            assert abs(int(mask.sum()) - dsb.sparsifier.budget[name]) <= 2
    assert sum(dsb.sparsifier.budget.values()) == round(0.4 * dsb.sparsifier.size)


def test_dsb_bug_14_small_images_have_a_stem_of_their_own():
    """There, residual networks share one stem, so that ImageNet costs four times what it should."""
    small, large = built("resnet18-cifar", 10), built("resnet18", 1000, 224)
    stems = [next(m for m in model.modules() if isinstance(m, nn.Conv2d)) for model in (small, large)]
    assert [(stem.kernel_size, stem.stride) for stem in stems] == [((3, 3), (1, 1)), ((7, 7), (2, 2))]
