"""Values by hand: initial and grown weights, learning rates, Deep R's drift and Top-KAST's penalty."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import LayerInfo, StrategyError
from dstbench_plugins.grow.stored import StoredMagnitude
from dstbench_plugins.values.fixed_signs import FixedSigns
from dstbench_plugins.values.grown import LastValue, UniformGrown
from dstbench_plugins.values.penalty import ExplorationPenalty
from dstbench_plugins.values.restart import Restart
from dstbench_plugins.values.scaled import LayerScaled, MeanFanOut, RowScaled, UnitScaled
from dstbench_plugins.values.supar import SparseMaximalUpdate
from fakes.engine import bits, sgd, view


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def spread(values, mask, draws=4000):
    """The deviation of each row's active weights over many draws."""
    layer = view(torch.zeros(mask.shape), mask)
    draw = rng()
    samples = torch.stack([values.initial(layer, draw) for _ in range(draws)])
    return [float(samples[:, i][:, row].std()) for i, row in enumerate(mask)], samples


FANS = bits("1100", "1000", "1111")  # fan-ins 2, 1, 4; fan-outs 3, 2, 1, 1


def test_he_by_unit():
    """Scale 2 and fan-ins 2, 1, 4: deviations 1, √2, 1/√2."""
    deviations, _ = spread(UnitScaled("fanin", "normal", 2.0), FANS)
    assert deviations == pytest.approx([1.0, 1.4142, 0.7071], rel=0.03)


@pytest.mark.parametrize(
    ("fan", "fans"), [("fanin", [4, 4, 4, 4]), ("fanout", [3, 2, 1, 1]), ("fanavg", [3.5, 3, 2.5, 2.5])]
)
def test_uniform_draws_keep_their_limits(fan, fans):
    """±√(3/fan), of the last row: 4 weights with fan-outs 3, 2, 1, 1."""
    _, samples = spread(UnitScaled(fan), FANS)
    largest = samples[:, 2].abs().amax(0)
    limits = (3 / torch.tensor(fans)).sqrt()
    assert (largest <= limits).all()
    assert (largest > 0.98 * limits).all()


def test_fans_of_convolutions_count_taps():
    """Two filters of one input with 3 and 1 taps left: fan-ins 3 and 1. Depthwise, fan-outs are the same; the first
    convolution's input feeds both: 4."""
    mask = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    mask[0, 0].view(-1)[:3], mask[1, 0, 0, 0] = True, True
    layer = view(torch.zeros(mask.shape), mask)
    assert UnitScaled("fanin")._fan(layer).flatten().tolist() == [3, 1]
    assert UnitScaled("fanout")._fan(layer).flatten().tolist() == [3, 1]
    first = LayerInfo("first", tuple(mask.shape), "conv", first_conv=True)
    layer = type(layer)(**{**vars(layer), "info": first})
    assert UnitScaled("fanout")._fan(layer).flatten().tolist() == [4]


def test_layer_scale_and_pixelflys():
    layer = view(torch.ones(3, 4), FANS)  # 7 of 12
    assert LayerScaled().initial(layer, rng())[0, 0] == pytest.approx((12 / 7) ** 0.5)
    scaled = RowScaled().initial(layer, rng())  # √(4/2), √(4/1), √(4/4)
    assert scaled[:, 0].tolist() == pytest.approx([2**0.5, 2.0, 1.0])


def test_swi_divides_by_the_mean_fan_out():
    """8 of 32 weights of [8, 4]: 2 active ones an input, σ = 1. By fan-in, of 1 an output, it would be √2."""
    mask = bits(*["1000", "0100", "0010", "0001"] * 2)
    _, samples = spread(MeanFanOut(), mask, 500)
    assert float(samples.std()) == pytest.approx(1.0, rel=0.03)


HIDDEN = LayerInfo("hidden", (4, 2048), "linear")


def test_supar_by_the_papers_table():
    """σ .02 at width 256 and density .1: .063246, rate × 10. Eight times as wide with the tuned .08665602: .096884,
    and Adam's 1.62e-2 becomes .02025; SGD's rate has no width in it."""
    mask = torch.zeros(4, 2560, dtype=torch.bool)
    mask[:, :256] = True
    drawn = SparseMaximalUpdate(sigma=0.02, base_width=2560).initial(view(torch.zeros(4, 2560), mask), rng())
    assert float(drawn.std()) == pytest.approx(0.063246, rel=0.03)
    adam = SparseMaximalUpdate(sigma=0.08665602, base_width=256).for_optimizer("AdamW")
    assert 1.62e-2 * adam.lr_scale(HIDDEN, 0.1) == pytest.approx(0.02025)
    assert SparseMaximalUpdate(base_width=256).for_optimizer("SGD").lr_scale(HIDDEN, 0.1) == pytest.approx(10)
    mask = torch.zeros(50, 2048, dtype=torch.bool)
    mask.view(-1)[: 50 * 2048 // 10] = True
    drawn = adam.initial(view(torch.zeros(50, 2048), mask), rng())
    assert float(drawn.std()) == pytest.approx(0.096884, rel=0.01)


def test_supar_of_a_given_width_is_one_for_all_layers():
    """A block's second layer, four times as wide inside: at the proxy's own width nothing is scaled."""
    narrowing = LayerInfo("fc2", (256, 1024), "linear")
    proxy = SparseMaximalUpdate(base_width=256, width=256, optimizer="adam")
    assert proxy.lr_scale(narrowing, 1.0) == 1.0
    assert SparseMaximalUpdate(base_width=256, width=2048, optimizer="adam").lr_scale(narrowing, 0.1) == (
        pytest.approx(1 / 0.8)
    )
    assert SparseMaximalUpdate(base_width=256, optimizer="adam").lr_scale(narrowing, 1.0) == 0.25
    with pytest.raises(StrategyError, match="width: expected a base_width beside it, got 512 alone"):
        SparseMaximalUpdate(width=512)


def test_supar_of_a_dense_layer_is_plain_and_leaves_the_classifier_alone():
    layer = view(torch.ones(4, 2048), torch.ones(4, 2048, dtype=torch.bool))
    assert torch.equal(SparseMaximalUpdate().initial(layer, rng()), layer.weight)
    assert SparseMaximalUpdate().lr_scale(HIDDEN, 1.0) == 1.0
    assert SparseMaximalUpdate().lr_scale(LayerInfo("head", (4, 2048), "linear", classifier=True), 0.1) == 1.0


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
def test_supar_keeps_the_spread_of_what_a_layer_gives(density):
    """The deviation of Σ w x doesn't depend on the density of a random mask."""
    mask = torch.rand(200, 1000, generator=rng(1)) < density
    drawn = SparseMaximalUpdate(sigma=0.02).initial(view(torch.zeros(200, 1000), mask), rng(2)) * mask
    outputs = torch.randn(300, 1000, generator=rng(3)) @ drawn.T
    assert float(outputs.std()) == pytest.approx(0.02 * 1000**0.5, rel=0.05)


def test_a_weight_comes_back_with_its_last_value():
    """Active with 3 at one update, gone with 2 at the next, and back: 2. What never was active: 0."""
    last, none = LastValue(), rng()
    memory = last.remember(view(torch.tensor([[5.0, 7.0]]), bits("10")), none)
    assert memory.tolist() == [[0.0, 0.0]]
    for weight, mask in (([[3.0, 0.0]], bits("10")), ([[2.0, 0.0]], bits("10")), ([[0.0, 9.0]], bits("01"))):
        memory = last.remember(view(torch.tensor(weight), mask, memory=memory), none)
    assert last.grown(view(torch.zeros(1, 2), bits("10"), memory=memory), none).tolist() == [[2.0, 9.0]]
    assert memory.tolist() == [[2.0, 9.0]]


def test_last_values_return_in_a_training():
    """Every grown weight that was active before holds what it had when it went."""
    model = nn.Sequential(nn.Linear(12, 10))
    parts = {"grow": "random", "schedule": {"name": "constant", "delta_t": 1, "zeta": 0.4}}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.5, total_steps=30, values="last")
    last, returned = {}, 0
    for seed in range(20):
        before, weight = sparsifier.masks["0"], model[0].weight
        nn.functional.cross_entropy(
            model(torch.randn(8, 12, generator=rng(seed))), torch.arange(8)
        ).backward()
        with torch.no_grad():
            moved = weight.detach().clone()
        sparsifier.optimizer.param_groups[0]["lr"] = 0.0 if seed % 2 else 0.05
        sparsifier.step()
        sparsifier.optimizer.zero_grad()
        mask, now = sparsifier.masks["0"], weight.detach()
        for i, j in (mask & ~before).nonzero().tolist():
            if (i, j) in last:
                assert float(now[i, j]) == last[i, j]
                returned += 1
        if seed % 2:  # nothing moved in this step: what went had what stood there
            for i, j in (before & ~mask).nonzero().tolist():
                last[i, j] = float(moved[i, j])
        else:
            for i, j in (before & ~mask).nonzero().tolist():
                last.pop((i, j), None)
    assert returned > 5


def test_grown_weights_lie_within_one_over_the_root_of_their_fan_in():
    layer = view(torch.zeros(3, 4), FANS)
    drawn = torch.stack([UniformGrown().grown(layer, rng(seed)) for seed in range(2000)])
    assert drawn.abs().amax((0, 2)).tolist() == pytest.approx([2**-0.5, 1.0, 0.5], rel=0.01)


def test_restarts():
    assert [Restart().restart(k) for k in (0, 1, 10, 20, 40)] == [0.0, 0.05, 0.5, 1.0, 1.0]
    assert Restart(10).restart(1) == 0.1


def test_deep_r_by_hand():
    """θ = .3 .02 .1, gradients of θ .5 .5 -.2, rate .1, α .01, no noise: .249 -.031 .119. The second dies, and one
    of the dormant positions, itself among them, wakes at 1e-12."""
    places = set()
    for seed in range(9):
        model = nn.Sequential(nn.Linear(6, 1, bias=False))
        values = {"name": "deep-r", "alpha": 0.01, "noise": 0.0}
        sparsifier = dstbench.Sparsifier(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            {"name": "deep-r", "init": "uniform", "values": values},
            0.5,
            total_steps=4,
            seed=seed,
        )
        sign = sparsifier.evolution.values.memory["0"]
        assert sign.abs().eq(1).all()
        sparsifier.set_masks({"0": bits("111000")})
        with torch.no_grad():
            model[0].weight.copy_(sign * torch.tensor([[0.3, 0.02, 0.1, 0, 0, 0]]))
        (model(sign * torch.tensor([[0.5, 0.5, -0.2, 0, 0, 0]]))).sum().backward()
        sparsifier.step()
        theta = (model[0].weight.detach() * sign).flatten()
        assert theta[[0, 2]].tolist() == pytest.approx([0.249, 0.119])
        woken = [i for i in (1, 3, 4, 5) if sparsifier.masks["0"][0, i]]
        assert len(woken) == 1
        assert float(theta[woken[0]]) == pytest.approx(1e-12)
        places.add(woken[0])
        assert torch.equal(sign, sparsifier.evolution.values.memory["0"])
    assert 1 in places, "the one that died"


def test_deep_rs_noise_and_signs():
    """Noise has its deviation around the drift; about half of the signs are negative; initial weights have them."""
    layer = view(torch.randn(100, 100, generator=rng()), torch.ones(100, 100, dtype=torch.bool))
    values = FixedSigns(alpha=1e-3, noise=1e-2)
    sign = values.remember(layer, rng())
    layer = type(layer)(**{**vars(layer), "memory": sign})
    assert abs(float(sign.mean())) < 0.03
    assert torch.equal(values.remember(layer, rng(1)), sign)
    assert torch.equal(values.initial(layer, rng()).sign(), sign)
    pulled = values.pull(layer, rng()) * sign
    assert float(pulled.mean()) == pytest.approx(1e-3, abs=3e-4)
    assert float(pulled.std()) == pytest.approx(1e-2, rel=0.03)


THETA = torch.tensor([[0.9, -0.5, 0.3, 0.25, -0.2, 0.1, 0.05, 0.01]])


def test_top_kasts_penalty_by_hand():
    """A the first two of eight, B the first four: .9 + .5 + (.3 + .25)/.25 = 3.6; squared .81 + .25 + .61."""
    layer, trained = view(THETA, bits("11000000")), bits("11110000")
    assert float(ExplorationPenalty(power=1.0).penalty(layer, trained)) == pytest.approx(3.6)
    assert float(ExplorationPenalty().penalty(layer, trained)) == pytest.approx(0.81 + 0.25 + 0.1525 / 0.25)
    pulled = ExplorationPenalty(weight=0.1, power=1.0).pull(layer, rng())
    assert pulled.flatten()[:4].tolist() == pytest.approx([0.1, -0.1, 0.4, 0.4])
    pulled = ExplorationPenalty(weight=0.1).pull(layer, rng())
    assert pulled.flatten()[:4].tolist() == pytest.approx([0.18, -0.1, 0.24, 0.2])


def test_stored_magnitudes_are_read_where_there_are_any():
    stored = StoredMagnitude()(view(THETA, bits("11000000")), rng())
    assert stored.flatten().tolist() == pytest.approx(THETA.abs().flatten().tolist())
    active = view(THETA * bits("11000000"), bits("10000000"), before=bits("11000000"))
    assert (StoredMagnitude()(active, rng()) < -1).all()
