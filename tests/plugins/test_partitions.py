"""Structures and inits of papers by hand: diagonals, shared fan-in, permutations, transposable tiles, butterflies."""

from __future__ import annotations

import itertools

import pytest
import torch

import dstbench
from dstbench.api import Infeasible, LayerCall, LayerInfo, StrategyError
from dstbench.core.engine.random import generator
from dstbench.core.engine.structures import as_structure
from dstbench_plugins.grow.guided import GuidedExploration
from dstbench_plugins.init.butterfly import Butterfly
from dstbench_plugins.structure.block import Block
from dstbench_plugins.structure.diagonal import Diagonal
from dstbench_plugins.structure.group_fan_in import GroupFanIn
from dstbench_plugins.structure.permuted import Permuted
from dstbench_plugins.structure.transposable import TransposableNOfM
from fakes.engine import bits, mlp, sgd, train, view

DEPTHWISE = LayerInfo("layer", (8, 1, 3, 3), "conv")


def linear(*shape):
    return LayerInfo("layer", shape, "linear")


@pytest.mark.parametrize(
    "structure", [Diagonal(), GroupFanIn(2), Permuted("diagonal"), Permuted("group_fan_in", 2)]
)
def test_depthwise_convolutions_have_no_connectivity(structure):
    assert "depthwise" in structure.misfit(DEPTHWISE)


def test_diagonals_by_hand():
    assert Diagonal().units(linear(4, 3)).tolist() == [[0, 3, 2], [1, 0, 3], [2, 1, 0], [3, 2, 1]]
    assert Diagonal().units(linear(3, 4)).tolist() == [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]]
    square = Diagonal().units(linear(5, 5))
    assert torch.equal(square, square.roll((1, 1), (0, 1)))
    assert as_structure(Diagonal()).unit(linear(3072, 768)) == 768


def test_shared_fan_in_by_hand():
    weight = torch.tensor(
        [[0.1, 0.5, 0.2, 0.9], [0.4, 0.1, 0.3, 0.2], [0.7, 0.2, 0.1, 0.1], [0.1, 0.6, 0.3, 0.2]]
    )
    structure = as_structure(GroupFanIn(2, 2))
    expected = bits("0101", "0101", "1100", "1100")
    assert torch.equal(structure.fill(view(weight), weight, 8), expected)
    assert structure.capacity(linear(4, 4)) == 8
    assert not structure.is_legal(linear(4, 4), bits("1110", "1110", "1000", "1000"))
    assert as_structure(GroupFanIn(2)).is_legal(linear(5, 4), bits("1110", "1110", "1000", "1000", "0101"))


def test_permuted_blocks_by_hand(monkeypatch):
    from dstbench_plugins.structure import permuted

    monkeypatch.setattr(permuted, "_permutation", lambda *_: torch.tensor([2, 0, 3, 1]))
    assert Permuted("block", 2).units(linear(4, 4)).tolist() == [[1, 0, 1, 0]] * 2 + [[3, 2, 3, 2]] * 2


@pytest.mark.parametrize("axis", ["columns", "rows", "both"])
def test_permutations_keep_legality_and_the_kernels_find_their_groups(axis):
    structure, info = as_structure(Permuted("block", 4, axis=axis)), linear(16, 12)
    scores = torch.rand((16, 12), generator=torch.Generator().manual_seed(0))
    mask = structure.fill(view(scores, name="layer"), scores, 96)
    assert structure.is_legal(info, mask)
    assert int(mask.sum()) == 96
    assert not as_structure(Block(4)).is_legal(info, mask)
    assert torch.equal(structure.component.units(info), Permuted("block", 4, axis=axis).units(info))
    other = LayerInfo("other", (16, 12), "linear")
    assert not torch.equal(structure.component.units(info), structure.component.units(other))
    call = LayerCall(info)
    paths = [execution.path for execution in structure.accelerate(call, mask)]
    assert any(path.startswith("shuffled-block") for path in paths)


def exact(tile, n=2):
    """The best score of a 4 x 4 tile with exactly n in every row and column, by trying all."""
    rows = [set(pair) for pair in itertools.combinations(range(4), n)]
    return max(
        sum(float(tile[i, j]) for i, row in enumerate(choice) for j in row)
        for choice in itertools.product(rows, repeat=4)
        if all(sum(j in row for row in choice) == n for j in range(4))
    )


def test_transposable_tiles_by_hand():
    structure = as_structure(TransposableNOfM())
    weight = torch.tensor([[8.0, 2, 1, 10], [9, 7, 6, 5], [13, 15, 12, 14], [11, 3, 4, 16]])
    greedy = structure.fill(view(weight), weight, 7)
    assert torch.equal(greedy, bits("0010", "1100", "0101", "1001"))
    assert float(weight[greedy].sum()) == 73
    whole = structure.fill(view(weight), weight, 8)
    assert whole.sum(0).tolist() == whole.sum(1).tolist() == [2, 2, 2, 2]
    assert 73 < float(weight[whole].sum()) <= exact(weight) == 85
    easy = torch.tensor([[8.0, 7, 6, 1], [7, 9, 2, 3], [5, 4, 3, 2], [1, 2, 8, 6]])
    best = structure.fill(view(easy), easy, 8)
    assert torch.equal(best, bits("1100", "1100", "0011", "0011"))
    assert float(easy[best].sum()) == exact(easy) == 50


@pytest.mark.parametrize("shape", [(8, 12), (8, 4, 3, 3)])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4)])
def test_transposable_masks_are_legal_both_ways_and_exact(shape, n, m):
    structure = as_structure(TransposableNOfM(n, m))
    info = LayerInfo("layer", shape, "linear" if len(shape) == 2 else "conv")
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for count in (1, info.numel * n // m // 2, info.numel * n // m - 1, info.numel * n // m):
        mask = structure.fill(view(scores), scores, count)
        assert int(mask.sum()) == count
        assert structure.is_legal(info, mask)
        other = LayerInfo("layer", (shape[1], shape[0], *shape[2:]), info.kind)
        assert structure.is_legal(other, mask.transpose(0, 1))
    assert not structure.is_legal(info, torch.ones(shape).bool())


def test_transposable_swaps_are_at_least_half_of_the_best():
    draw = torch.Generator().manual_seed(1)
    structure = as_structure(TransposableNOfM())
    for _ in range(6):
        tile = torch.rand((4, 4), generator=draw)
        best, ours = exact(tile), float(tile[structure.fill(view(tile), tile, 8)].sum())
        assert best / 2 <= ours <= best + 1e-6


def test_what_transposable_tiles_dont_fill():
    assert "tiles of 4 x 4" in TransposableNOfM().misfit(linear(6, 8))
    assert "transposed" in TransposableNOfM().misfit(LayerInfo("l", (4, 4, 2, 2), "conv_transpose"))
    with pytest.raises(StrategyError, match="n: expected"):
        TransposableNOfM(3, 2)


def test_butterflies_by_hand():
    def pattern(count):
        layer = view(torch.ones(4, 4), allocation=count)
        scores = Butterfly(4)(layer, generator(0, "layer", 0))
        return scores.flatten().argsort(descending=True)[:count].sort().values.tolist()

    for rows, count in ((("1000", "0100", "0010", "0001"), 4), (("1100", "1100", "0011", "0011"), 8),
                        (("1110", "1101", "1011", "0111"), 12)):  # fmt: skip
        assert pattern(count) == bits(*rows).flatten().nonzero().flatten().tolist()
    assert set(pattern(6)) < set(pattern(8))


def test_butterflies_start_block_structures():
    model = mlp(sizes=(16, 16, 16, 4))
    parts = {
        "init": {"name": "butterfly", "size": 4},
        "structure": {"name": "block", "block_size": 4},
        "schedule": "never",
    }
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, density=0.5, total_steps=4)
    blocks = sparsifier.masks["0"][::4, ::4]
    assert torch.equal(blocks, bits("1100", "1100", "0011", "0011"))


def test_butterflies_refuse_what_lies_between_two_patterns():
    layer = view(torch.ones(8, 8), allocation=30)
    with pytest.raises(Infeasible, match=r"hold \[16, 32, 48, 64\] weights, not 30"):
        Butterfly(4, exact=True)(layer, generator(0, "layer", 0))
    with pytest.raises(StrategyError, match="power of two"):
        Butterfly(12)


# Guided exploration


class Drawn:
    """Stands in for torch.randint."""

    def __init__(self, positions):
        self.positions = torch.tensor(positions)

    def __call__(self, most, size, generator):
        assert size == (len(self.positions),)
        return self.positions


def test_guided_exploration_by_hand(monkeypatch):
    """Three draws hit (0, 3), (2, 0) and the active (1, 1): both candidates grow, and a random third."""
    mask = bits("1000", "0100", "0010")
    monkeypatch.setattr(torch, "randint", Drawn([3, 8, 5]))
    grad = torch.full((3, 4), 0.5)
    scores = GuidedExploration()(view(torch.ones(3, 4), mask, grad=grad), generator(0, "layer", 1))
    assert (scores >= 0).nonzero().tolist() == [[0, 3], [1, 1], [2, 0]]
    assert bool((scores[scores < 0] >= -2).all())


def test_guided_by_everything_is_rigl():
    weight, draw = torch.randn(20, 30), torch.Generator().manual_seed(0)
    mask, grad = torch.rand((20, 30), generator=draw) < 0.1, torch.randn((20, 30), generator=draw)
    scores = GuidedExploration(gamma=1000.0)(view(weight, mask, grad=grad), generator(0, "layer", 1))
    assert torch.equal(scores.float(), grad.abs())


def test_what_guided_exploration_sees_is_its_expected_share():
    draw, seen = generator(0, "layer", 1), 0.0
    mask = torch.zeros(50, 40).bool()
    mask.view(-1)[:400] = True
    for _ in range(60):
        scores = GuidedExploration(2.0)(view(torch.ones(50, 40), mask, grad=torch.ones(50, 40)), draw)
        seen += float((scores[~mask] >= 0).float().mean()) / 60
    assert seen == pytest.approx(1 - (1 - 1 / 2000) ** 800, abs=0.01)


def test_what_was_just_dropped_comes_last():
    before, mask = bits("110000", "000000"), bits("100000", "000000")
    layer = view(torch.ones(2, 6), mask, before=before, grad=torch.ones(2, 6))
    scores = GuidedExploration()(layer, generator(0, "layer", 1))
    assert int(scores.argmin()) == 1


# RigL over units


def test_block_and_channel_rigl_by_hand():
    weight = torch.tensor([[1.0, 2, 0, 4], [3, 0, 1, 1], [2, 2, 5, 0], [1, 1, 0, 3]])
    full = view(weight, torch.ones(4, 4).bool())
    blocks = as_structure(Block(2)).shrink(full, weight.abs(), 12)
    assert torch.equal(blocks, bits("1111", "1111", "0011", "0011"))
    channels = as_structure(dstbench.registry().build("structure", "channel")).shrink(full, weight.abs(), 8)
    assert torch.equal(channels, bits("1111", "0000", "1111", "0000"))


def test_gse_trains_over_the_whole_network():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), {"name": "gse", "delta_t": 2}, 0.2, 20)
    first = sparsifier.active
    train(model, sparsifier, 20)
    assert sparsifier.updates == 5
    assert sum(sparsifier.active.values()) == round(0.2 * sparsifier.size)
    assert sparsifier.active != first
