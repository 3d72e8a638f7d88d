"""The kit finds each planted mistake of an execution, and nothing in a sound one."""

from dataclasses import dataclass

import pytest
import torch

from dstbench.testing import check_structure
from fakes.executions import Offering, Scattered


def test_a_sound_execution():
    assert check_structure(Offering()) == []


class Transposes(Scattered):
    def __call__(self, x, packed, bias):
        return super().__call__(x, packed.flip(0), bias)


class LosesBias(Scattered):
    def __call__(self, x, packed, bias):
        return super().__call__(x, packed, None)


class Detaches(Scattered):
    def pack(self, values):
        return super().pack(values.detach())


class NoInputGradient(Scattered):
    def __call__(self, x, packed, bias):
        return super().__call__(x.detach(), packed, bias)


class IgnoresStride(Scattered):
    def __call__(self, x, packed, bias):
        out = super().__call__(x, packed, bias)
        return out if not self.call.stride or self.call.stride[0] == 1 else out[..., :1]


class Raises(Scattered):
    def __call__(self, x, packed, bias):
        raise RuntimeError("no kernel")


@dataclass(frozen=True)
class Doubles(Offering):
    """Stores a weight twice."""

    def accelerate(self, call, mask):
        [sound] = super().accelerate(call, mask)
        return [Scattered(call, sound.positions[[0, *range(len(sound.positions))]])]


@dataclass(frozen=True)
class OtherOrder(Offering):
    """Its executions can't take over from each other."""

    def accelerate(self, call, mask):
        [sound] = super().accelerate(call, mask)
        return [sound, Scattered(call, sound.positions.flip(0), "flipped")]


@dataclass(frozen=True)
class Writes(Offering):
    """Changes the mask that it was given."""

    def accelerate(self, call, mask):
        found = super().accelerate(call, mask)
        mask.zero_()
        return found


@dataclass(frozen=True)
class Refuses(Offering):
    """Raises where it should offer nothing."""

    def accelerate(self, call, mask):
        raise NotImplementedError("strided")


def offering(execution):
    @dataclass(frozen=True)
    class Planted(Offering):
        def accelerate(self, call, mask):
            return [execution(call, mask.flatten().nonzero().flatten())]

    return Planted()


PLANTED = {
    "output": offering(Transposes),
    "bias gradient": offering(LosesBias),
    "weight gradient": offering(Detaches),
    "input gradient": offering(NoInputGradient),
    "execution": offering(Raises),
    "positions": Doubles(),
    "purity": Writes(),
    "accelerate": Refuses(),
}


@pytest.mark.parametrize("check", PLANTED)
def test_planted_mistakes_are_found(check):
    assert check in {problem.check for problem in check_structure(PLANTED[check])}


def test_another_order_and_another_shape_are_found():
    messages = {problem.check: problem.message for problem in check_structure(OtherOrder())}
    assert "stores in another order than 'scattered'" in messages["positions"]
    messages = {problem.check: problem.message for problem in check_structure(offering(IgnoresStride))}
    assert "expected shape" in messages["output"]


class Leaks(Scattered):
    """Its last value is padding, and adds to every weight."""

    def pack(self, values):
        flat = values.new_zeros(self.call.info.numel).index_put((self.positions[:-1],), values[:-1])
        return (flat + values[-1]).view(self.call.info.shape)


@dataclass(frozen=True)
class Padded(Offering):
    """Stores more than there is."""

    def accelerate(self, call, mask):
        return [Leaks(call, torch.cat([mask.flatten().nonzero().flatten(), torch.tensor([-1])]))]


def test_padding_must_have_no_gradient():
    assert "padding" in {problem.check for problem in check_structure(Padded())}
