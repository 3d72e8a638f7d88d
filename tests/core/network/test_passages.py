"""Percolation: links that lead nowhere go, along passages; by hand."""

import pytest
import torch
from torch import nn

from dstbench.api import Infeasible
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.passages import passages


def mask(*rows):
    return torch.tensor([[int(entry) for entry in row] for row in rows]).bool()


def percolated(model, masks, but=()):
    layers = {name: layer for name, layer in maskable_layers(model).items() if name not in but}
    return passages(model, layers).percolated(masks)


def check(left, expected):
    assert left.keys() == expected.keys()
    for name, one in expected.items():
        assert torch.equal(left[name], one), name


def test_two_layers_by_hand():
    """Neuron 1 is read by nobody, neuron 2 reads nothing; inputs and outputs without links are no dead ends."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    masks = {"0": mask("100", "110", "000", "010"), "2": mask("1010", "0011", "0000")}
    check(
        percolated(model, masks), {"0": mask("100", "000", "000", "010"), "2": mask("1000", "0001", "0000")}
    )


def test_a_chain_of_three_falls_from_both_ends():
    """Nobody reads neuron 1 of the second layer, so that it goes, and with it neuron 1 of the first. Neuron 2 of the
    first reads nothing: neuron 2 of the second, which reads it alone, goes, and its column in the last layer."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = {"0": mask("10", "11", "00"), "2": mask("100", "010", "001"), "4": mask("101", "000")}
    left = {"0": mask("10", "00", "00"), "2": mask("100", "000", "000"), "4": mask("100", "000")}
    check(percolated(model, masks), left)


def test_a_layer_without_mask_is_dense_and_no_layer_is_emptied():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    masks = {"0": mask("10", "00")}
    check(percolated(model, masks, but=("2",)), masks)
    apart = {"0": mask("10", "00"), "2": mask("01", "00")}
    left = percolated(model, apart)
    assert all(bool(one.any()) for one in left.values())


class Gated(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(2, 3, bias=False),
            nn.Linear(2, 3, bias=False),
            nn.Linear(3, 2),
        )
        self.act = act

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


GATED = {"gate": mask("10", "00", "01"), "up": mask("01", "11", "10"), "down": mask("110", "011")}


def test_gates_and_what_they_gate_live_at_the_same_index():
    left = {"gate": mask("10", "00", "01"), "up": mask("01", "00", "10"), "down": mask("100", "001")}
    check(percolated(Gated(nn.SiLU()), GATED), left)


def test_a_gate_that_is_open_without_links_silences_nothing():
    """sigmoid(0) is a half."""
    check(percolated(Gated(nn.Sigmoid()), GATED), GATED)


def test_added_writers_go_once_all_are_silent():
    class Added(Gated):
        def forward(self, x):
            return self.down(self.gate(x) + self.up(x))

    check(percolated(Added(nn.Identity()), GATED), GATED)


def test_queries_and_keys_values_and_output_of_attention():
    from dstbench_plugins.models.llama import Attention

    model = nn.Sequential(Attention(4, 1))
    full = torch.ones(4, 4).bool()
    without = {row: full.clone() for row in range(4)}
    for row, one in without.items():
        one[row] = False
    masks = {"0.q_proj": without[0], "0.k_proj": without[1], "0.v_proj": without[2], "0.o_proj": without[3].T}
    both = without[0] & without[1]
    pair = without[2] & without[3]
    check(
        percolated(model, masks), {"0.q_proj": both, "0.k_proj": both, "0.v_proj": pair, "0.o_proj": pair.T}
    )


def test_behind_a_flattening_a_channel_has_several_columns():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    conv = torch.zeros(2, 1, 3, 3).bool()
    conv[0, 0, 1, 1] = True
    left = percolated(model, {"0": conv, "3": mask("11110001", "00001111")})
    check(left, {"0": conv, "3": mask("11110000", "00000000")})


def test_nothing_to_follow_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(Infeasible, match="percolation: no channels between layers of Sequential"):
        passages(model, maskable_layers(model))
