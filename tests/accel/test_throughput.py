"""Timing: what is reported, what is refused, and that a machine which turned busy can't make it endless."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.accel.throughput import throughput
from dstbench.core import timing
from dstbench.core.timing import time_interleaved
from dstbench.errors import BadInput


def test_a_measurement_says_how_it_was_taken():
    measured = throughput(nn.Linear(4, 2), torch.zeros(8, 4), rounds=3, warmup=0)
    assert (measured.batch_size, measured.rounds, measured.warmup) == (8, 3, 0)
    assert (measured.device, measured.dtype) == ("cpu", "float32")
    assert 0 < measured.latency_low <= measured.latency_median <= measured.latency_high
    assert measured.images_per_second == pytest.approx(8 / measured.latency_median)


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"warmup": -1}])
def test_nothing_to_time_is_refused(bad):
    with pytest.raises(BadInput, match="rounds and warmup"):
        throughput(nn.Linear(4, 2), torch.zeros(8, 4), **bad)


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
