"""Speeds of layers that one trial measured are the next one's, for an hour."""

from __future__ import annotations

import pytest

from dstbench.runner.trial import layer_speeds
from dstbench.runner.trial.layer_speeds import LayerSpeeds

KEY, OTHER = ("csr", (8, 8), 0.1), ("csr", (8, 9), 0.1)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))


def measured(key, speedup, threads=1):
    speeds = LayerSpeeds(threads)
    speeds[key] = speedup
    speeds.keep()


def test_the_next_trial_knows_what_was_measured():
    measured(KEY, 1.5)
    measured(OTHER, 0.5)
    speeds = LayerSpeeds(1)
    assert (KEY in speeds, OTHER in speeds, ("else",) in speeds) == (True, True, False)
    assert (speeds[KEY], speeds[OTHER]) == (1.5, 0.5)
    assert KEY not in LayerSpeeds(2)


def test_it_is_measured_again_after_an_hour(monkeypatch):
    measured(KEY, 1.5)
    now = layer_speeds.time.time() + 3601
    monkeypatch.setattr(layer_speeds.time, "time", lambda: now)
    assert KEY not in LayerSpeeds(1)
    monkeypatch.setattr(layer_speeds.time, "time", lambda: now - 2 * 3601)  # the clock was set back
    assert KEY not in LayerSpeeds(1)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": ["x", "y"]}'])
def test_a_damaged_file_is_none(text, tmp_path):
    measured(KEY, 1.5)
    [file] = (tmp_path / "layers").iterdir()
    file.write_text(text)
    assert KEY not in LayerSpeeds(1)
