"""Timing: what is reported, what is refused, and that a machine which turned busy can't make it endless."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

from dstbench.accel.throughput import Runner, _left_out, figures, race, throughput
from dstbench.core.storage import timing
from dstbench.core.storage.timing import time_interleaved
from dstbench.errors import BadInput


def test_a_measurement_says_how_it_was_taken():
    measured = throughput(nn.Linear(4, 2), torch.zeros(8, 4), rounds=3, warmup=0)
    assert (measured.batch_size, measured.rounds, measured.warmup) == (8, 3, 0)
    assert (measured.device, measured.dtype) == ("cpu", "float32")
    assert 0 < measured.latency_low <= measured.latency_median <= measured.latency_high
    assert measured.images_per_second == pytest.approx(8 / measured.latency_median)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rounds": 0}, "rounds and warmup"),
        ({"warmup": -1}, "rounds and warmup"),
        ({"precision": "bf61"}, "precision: unknown 'bf61'; did you mean 'bf16'"),
        ({"channels_last": True}, r"channels_last: expected an input .*, got \(8, 4\)"),
    ],
)
def test_what_cannot_be_timed_is_refused(bad, message):
    with pytest.raises(BadInput, match=message):
        throughput(nn.Linear(4, 2), torch.zeros(8, 4), **bad)


def test_one_image_is_timed_too():
    measured = throughput(nn.Linear(4, 2), torch.zeros(8, 4), rounds=2, warmup=0)
    assert measured.single.batch_size == 1
    assert measured.single.images_per_second == pytest.approx(1 / measured.single.latency_median)
    assert measured.single.single is None
    assert throughput(nn.Linear(4, 2), torch.zeros(1, 4), rounds=1, warmup=0).single is None


class Layer(nn.Module):
    """A layer that remembers what it ran on, in copies too."""

    seen: list = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        out = self.conv(x)
        weight = self.conv.weight
        self.seen.append(
            (x.is_contiguous(), weight.is_contiguous(), out.dtype, self.training, out.requires_grad)
        )
        return out


@pytest.mark.parametrize(
    ("channels_last", "precision"), [(None, "no"), (True, "no"), (False, "bf16"), (True, "bf16")]
)
def test_layout_and_precision_are_what_ran_and_what_is_recorded(channels_last, precision):
    Layer.seen.clear()
    model = Layer().train()
    measured = throughput(
        model, torch.randn(2, 3, 8, 8), rounds=1, warmup=0, channels_last=channels_last, precision=precision
    )
    dtype = torch.float32 if precision == "no" else torch.bfloat16
    assert set(Layer.seen) == {(not channels_last, not channels_last, dtype, False, False)}
    assert measured.channels_last == bool(channels_last)
    assert measured.precision == ("float32" if precision == "no" else "bf16")
    assert measured.dtype == "float32"
    assert f"torch {torch.__version__}" in measured.versions
    assert model.training
    assert model.conv.weight.is_contiguous()


def test_a_compile_mode_is_passed_on_and_recorded(monkeypatch):
    modes = []

    def compile(model, mode):
        modes.append(mode)
        return model

    monkeypatch.setattr(torch, "compile", compile)
    measured = throughput(nn.Linear(4, 2), torch.zeros(8, 4), rounds=1, warmup=0, compile="reduce-overhead")
    assert modes == ["reduce-overhead"] * 2
    assert measured.compile == "reduce-overhead"


def clock(monkeypatch):
    """Calls that take as long as they say, on a clock of their own."""
    now = 0.0

    def lasting(seconds):
        turns = iter(seconds)

        def call():
            nonlocal now
            now += next(turns)

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    return lasting


def test_ratios_are_taken_within_each_round(monkeypatch):
    """Those are 4, 2 and 6."""
    lasting = clock(monkeypatch)
    calls = [lasting([1, 1, 1, 2, 1]), lasting([1, 1, 4, 4, 6])]
    mine, dense = time_interleaved(calls, rounds=3, warmup=0)
    found = figures(mine, dense, batch_size=8)
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (4, 3, 5)
    assert found["latency_median"] == 1
    assert found["dense_images_per_second"] == 2


def test_another_model_is_timed_beside_it():
    measured = throughput(nn.Linear(4, 2), torch.zeros(2, 4), against=nn.Linear(4, 2), rounds=1, warmup=0)
    assert measured.ratio == measured.ratio_low == measured.ratio_high > 0
    assert measured.dense_images_per_second == pytest.approx(measured.images_per_second / measured.ratio)
    assert measured.single.ratio > 0
    assert throughput(nn.Linear(4, 2), torch.zeros(2, 4), rounds=1, warmup=0).ratio is None


def test_each_side_runs_in_its_best_layout(monkeypatch):
    lasting = clock(monkeypatch)
    mine = [Runner(lasting([1] * 2 + [m] * 3), "compacted", layout) for m, layout in ((3, "a"), (2, "b"))]
    dense = [Runner(lasting([1] * 2 + [d] * 3), "dense", layout) for d, layout in ((6, "a"), (8, "b"))]
    found = race(mine, dense, batch_size=6, rounds=3, warmup=0)
    assert (found["path"], found["layout"], found["dense_layout"]) == ("compacted", "b", "a")
    assert (found["ratio"], found["images_per_second"], found["dense_images_per_second"]) == (3, 3, 1)


def test_a_call_that_turns_slow_is_repeated_no_more(monkeypatch):
    """Calls of 1 µs are repeated 5,000 times a timing; once one takes a second, one is enough."""
    now, calls = 0.0, 0

    def call():
        nonlocal now, calls
        calls += 1
        now += 1e-6 if calls <= 2 else 1.0  # the calibration is quick

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    [seconds] = time_interleaved([call], rounds=3, warmup=0)
    assert seconds == pytest.approx([1.0, 1.0, 1.0])
    assert calls == 5


def test_each_call_is_repeated_as_often_as_its_own_time_asks(monkeypatch):
    """A slow call beside a quick one is made once a timing."""
    lasting = clock(monkeypatch)
    quick, slow = lasting([1e-3] * 17), lasting([1.0] * 5)
    seconds = time_interleaved([quick, slow], rounds=3, warmup=1)  # 1 + 1 + 3 * 5 calls, and 1 + 1 + 3
    assert seconds == [pytest.approx([1e-3] * 3), pytest.approx([1.0] * 3)]
    with pytest.raises(StopIteration):
        quick()
    with pytest.raises(StopIteration):
        slow()


class Tagger(nn.Module):
    """Two inputs, one of them of integers."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids, mask):
        return {"logits": self.head(self.words(ids) * mask[..., None])}


@pytest.mark.parametrize(
    "example",
    [(torch.zeros(6, 3, dtype=torch.long), torch.ones(6, 3, dtype=torch.bool))] * 2,
    ids=["positional", "keywords"],
)
def test_several_inputs(example, request):
    if "keywords" in request.node.callspec.id:
        example = dict(zip(("ids", "mask"), example, strict=True))
    measured = throughput(Tagger(), example, rounds=2, warmup=0)
    assert (measured.batch_size, measured.single.batch_size) == (6, 1)
    assert (measured.dtype, measured.precision, measured.channels_last) == ("float32", "float32", False)


def test_inputs_that_are_none_are_named():
    with pytest.raises(BadInput, match=r"example_input: expected a tensor, a tuple"):
        throughput(nn.Linear(4, 2), [torch.zeros(2, 4)], rounds=1, warmup=0)
    with pytest.raises(BadInput, match=r"channels_last: .*got \(6, 3\), \(6, 3\)"):
        throughput(Tagger(), (torch.zeros(6, 3), torch.zeros(6, 3)), channels_last=True)


def test_a_few_rounds_decide_which_layouts_run_in_many(monkeypatch):
    lasting = clock(monkeypatch)
    # a first call and one that is timed for the number of repeats, three heats, and the four rounds
    mine = [
        Runner(lasting([1] * 2 + [3] * 3), "compacted", "a"),
        Runner(lasting([1] * 2 + [2] * 3 + [2] * 4), "compacted", "b"),
    ]
    dense = [
        Runner(lasting([1] * 2 + [6] * 3 + [8] * 4), "dense", "a"),
        Runner(lasting([1] * 2 + [7] * 3), "dense", "b"),
    ]
    found = race(mine, dense, batch_size=8, rounds=4, warmup=0)
    assert (found["layout"], found["dense_layout"]) == ("b", "a")
    assert (found["ratio"], found["images_per_second"], found["dense_images_per_second"]) == (4, 4, 1)


@pytest.mark.parametrize(
    ("ratios", "rounds"),
    [
        ([2.0] * 11, 6),
        ([2.0, 2.08, 2.0, 1.92, 2.0, 2.03, 1.99, 2.01, 2.0, 2.0, 2.0], 6),  # 4 % off at most
        ([2.0] * 5 + [2.2] + [2.0] * 5, 9),  # from nine on the lowest and the highest are left out
        ([2.0, 2.3] * 5 + [2.0], 11),
        ([2.0] * 5, 5),  # asked for less
    ],
)
def test_a_race_ends_once_its_ratio_is_known(ratios, rounds, monkeypatch):
    lasting = clock(monkeypatch)
    mine = Runner(lasting([1] * (2 + len(ratios))), "compacted", "a")
    dense = Runner(lasting([1] * 2 + ratios), "dense", "a")
    figures = race([mine], [dense], batch_size=8, rounds=len(ratios), warmup=0)
    assert figures["rounds"] == rounds
    assert figures["ratio"] == pytest.approx(statistics.median(ratios[:rounds]))


@pytest.mark.parametrize(
    ("rounds", "left_out"), [(6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (17, 4), (20, 5), (25, 7)]
)
def test_the_interval_of_a_median_is_that_of_the_tables(rounds, left_out):
    """Conover, table A3: the interval from the 6th to the 15th of 20 values has 95.9 %."""
    assert _left_out(rounds) == left_out
    inside = sum(math.comb(rounds, k) for k in range(left_out + 1, rounds - left_out)) / 2**rounds
    assert inside >= 0.95 > inside - 2 * math.comb(rounds, left_out + 1) / 2**rounds
