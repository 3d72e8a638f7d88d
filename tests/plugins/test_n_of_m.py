"""N:M and fixed blocks: which weights belong together, what doesn't fit, and that full masks still move."""

from __future__ import annotations

import pytest
import torch

import dstbench
from dstbench.api import Infeasible, LayerInfo, Signal, StrategyError
from dstbench.core.engine.structures import as_structure
from dstbench_plugins.structure.block import Block
from dstbench_plugins.structure.n_of_m import NOfM
from fakes.engine import bits, mlp, recipe, sgd, train, view

REGISTRY = dstbench.registry()
STEPS = 12


def conv(*shape, kind="conv"):
    return LayerInfo("layer", shape, kind)


# Which weights belong together


def test_groups_of_a_linear_layer_are_neighbouring_inputs():
    assert NOfM(2, 4).quota(conv(2, 8, kind="linear")).group.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_groups_of_a_convolution_are_neighbouring_in_channels_at_one_tap():
    group = NOfM(1, 2).quota(conv(1, 4, 1, 2)).group.view(1, 4, 1, 2)
    assert group[0, :, 0, 0].tolist() == [0, 0, 2, 2]
    assert group[0, :, 0, 1].tolist() == [1, 1, 3, 3]


def test_one_of_two_by_hand():
    structure = as_structure(NOfM(1, 2))
    scores = torch.tensor([[[[8.0, 1]], [[7, 2]], [[3, 6]], [[4, 5]]]])  # in-channels 0 to 3, two taps each
    layer = view(torch.ones_like(scores))
    assert structure.fill(layer, scores, 4).nonzero()[:, [1, 3]].tolist() == [[0, 0], [1, 1], [2, 1], [3, 0]]
    assert structure.fill(layer, scores, 2).nonzero()[:, [1, 3]].tolist() == [[0, 0], [2, 1]]


def test_blocks_are_contiguous_tiles():
    assert Block(2).units(conv(4, 4, kind="linear")).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert Block(1, 3).units(conv(2, 1, 3, 3)).view(2, 9).tolist() == [
        [0] * 3 + [1] * 3 + [2] * 3,
        [3] * 3 + [4] * 3 + [5] * 3,
    ]


def test_blocks_rank_by_their_mean_score():
    scores = torch.tensor([[9.0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 3, 3], [1, 1, 3, 2]])  # 2.25, 2, 1, 2.75
    structure = as_structure(Block(2))
    assert structure.unit(view(scores).info) == 4
    expected = bits("1100", "1100", "0011", "0011")
    assert torch.equal(structure.fill(view(scores), scores, 7), expected)
    assert torch.equal(structure.shrink(view(scores, torch.ones(4, 4).bool()), scores, 8), expected)


# What doesn't fit


@pytest.mark.parametrize(
    ("layout", "info", "reason"),
    [
        (NOfM(2, 4), conv(16, 3, 3, 3), "3 inputs don't divide into groups of 4"),
        (NOfM(2, 4), conv(8, 1, 3, 3), "1 inputs"),
        (NOfM(2, 4), conv(8, 8, 3, 3, kind="conv_transpose"), "transposed"),
        (NOfM(2, 4), conv(10, 8, kind="linear"), None),
        (Block(16), conv(16, 1, 3, 3), "16 x 9 weights don't divide into tiles of 16 x 16"),
        (Block(16, 9), conv(16, 1, 3, 3), None),
        (Block(16), conv(10, 64, kind="linear"), "10 x 64"),
        (Block(2), conv(2, 2, 2, 2, kind="conv_transpose"), "transposed"),
    ],
)
def test_layers_that_do_not_divide_do_not_fit(layout, info, reason):
    misfit = as_structure(layout).misfit(info)
    assert misfit is None if reason is None else reason in misfit


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: NOfM(3, 2), "n: expected an integer from 1 to 2, got 3"),
        (lambda: NOfM(0, 2), "n: .* 0"),
        (lambda: NOfM(1, 2.0), "m: expected an integer >= 1, got 2.0"),
        (lambda: Block(True), "block_size: .* True"),
        (lambda: Block(2, 0), "columns: .* 0"),
    ],
)
def test_bad_sizes_are_named(make, field):
    with pytest.raises(StrategyError, match=field):
        make()


# N:M at its capacity


def full(density=0.5, **parts):
    """Train with 2:4 in every layer, which holds a density of 0.5 and no more."""
    model = mlp()
    parts = recipe(parts.pop("schedule", "constant"), 2, **{"structure": "n_of_m", **parts})
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe=parts, density=density, total_steps=STEPS, steps_per_epoch=3
    )
    assert not sparsifier.fallbacks
    seen = [dict(sparsifier.masks)]
    train(model, sparsifier, STEPS, after=lambda: seen.append(dict(sparsifier.masks)))
    return sparsifier, seen


def groups_of_four(masks):
    return torch.cat([mask.view(-1, 4).sum(1) for mask in masks.values()])


@pytest.mark.parametrize("prune", REGISTRY["prune"])
@pytest.mark.parametrize("grow", REGISTRY["grow"])
def test_full_groups_still_move(prune, grow):
    """A mask calculator that keeps n of every m whatever it is told drops nothing, so 2:4 never moves."""
    remembering = Signal.MEMORY in REGISTRY.build("prune", prune).needs
    sparsifier, seen = full(prune=prune, grow=grow, **({"values": "deep-r"} if remembering else {}))
    assert all(bool((groups_of_four(masks) == 2).all()) for masks in seen)
    assert sum(report.grown for report in sparsifier.history) > 0
    assert any(not torch.equal(seen[0][name], seen[-1][name]) for name in seen[0])


@pytest.mark.parametrize("schedule", REGISTRY["schedule"])
def test_every_schedule_moves_full_groups_or_says_why_it_can_not(schedule):
    if schedule in ("cubic", "soft_memory", "soft_then_hard", "alternating", "cyclic", "top-kast"):
        with pytest.raises(Infeasible, match=r"at most 368\b|and 368 of 736\b"):
            full(schedule=schedule)
        return
    sparsifier, seen = full(schedule=schedule)
    moved = any(not torch.equal(seen[0][name], seen[-1][name]) for name in seen[0])
    assert moved == (sparsifier.last_update > 0) == (schedule != "never")


def test_schedules_that_fall_to_the_capacity_or_stay_below_it_are_fine():
    sparsifier, _ = full(0.25, schedule={"name": "cubic", "initial": 0.5, "delta_t": 2, "stop": 0.5})
    assert sparsifier.density == 0.25
    _, seen = full(0.4, schedule={"name": "soft_memory", "extra": 0.1, "delta_t": 2})
    assert all(bool((groups_of_four(masks) <= 2).all()) for masks in seen)


def test_growth_that_spares_what_was_dropped_uses_only_what_the_groups_leave():
    """Of a group of 3:4 that lost two weights only one can come back: other groups and layers take the rest."""
    grow = {"name": "random", "exclude_dropped": True}
    sparsifier, seen = full(0.6, structure={"name": "n_of_m", "n": 3}, grow=grow)
    assert sum(report.grown for report in sparsifier.history) > 0
    assert all(bool((groups_of_four(masks) <= 3).all()) for masks in seen)
    assert sparsifier.density == pytest.approx(0.6, abs=1 / sparsifier.size)
    with pytest.raises(Infeasible):
        full(0.75, structure={"name": "n_of_m", "n": 3}, grow=grow)


def test_more_than_the_capacity_is_infeasible_with_the_figures():
    with pytest.raises(Infeasible, match=r"\b442\b.*\b368\b"):
        full(0.6)
