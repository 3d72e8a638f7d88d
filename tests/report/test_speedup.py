"""The plot of measured against theoretical speed-up: where points lie and what their marks say."""

from __future__ import annotations

import pytest

from dstbench.report.page import write_leaderboards
from dstbench.report.speedup import DENSE, FRAME, speedups

STRUCTURES = ["channel", "shuffled_block", "unstructured"]


def row(structure="unstructured", path="masked-dense", ratio=1.0, theory=10.0, **changes):
    speeds = {
        f"{kind}_{name}": value
        for kind in ("inference", "train")
        for name, value in (
            ("path", path),
            ("theory", theory),
            ("hardware", 1.0),
            ("throughput_ratio", ratio),
            ("throughput_ratio_low", ratio * 0.9),
            ("throughput_ratio_high", ratio * 1.1),
        )
    }
    place = {"method": "rigl", "model": "vgg", "dataset": "cifar10", "density_requested": 0.1}
    return {**place, "structure": structure, "control": None, "contended": False, **speeds, **changes}


def points(rows, kind=0):
    return speedups(rows, STRUCTURES).panels[kind].points


def on_line(point, line):
    x1, y1, x2, y2 = line
    return y1 + (point.x - x1) / (x2 - x1) * (y2 - y1)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 10.0])
def test_points_lie_by_the_lines_as_they_should(ratio):
    [panel, _] = speedups([row(path="compacted", ratio=ratio)], STRUCTURES).panels
    [point] = panel.points
    assert panel.title == "Inference"
    assert panel.dense[1] == panel.dense[3]
    assert (point.y > panel.dense[1]) == (ratio < 1)  # pixels count downwards
    theory = on_line(point, panel.theory)
    assert point.y == pytest.approx(theory, abs=0.2) if ratio == 10 else point.y > theory + 5
    assert point.high < point.y < point.low
    assert point.x >= FRAME.left
    assert point.y >= FRAME.top


def test_the_diagonal_goes_through_equal_ticks():
    [panel, _] = speedups([row(theory=50.0)], STRUCTURES).panels
    x, y = ({text: at for at, text in ticks} for ticks in (panel.x_ticks, panel.y_ticks))
    assert x.keys() >= {"1×", "10×", "50×"}
    for text in x.keys() & y.keys():
        x1, y1, x2, y2 = panel.theory
        assert y[text] == pytest.approx(y1 + (x[text] - x1) / (x2 - x1) * (y2 - y1), abs=0.2)
    assert y["1×"] == panel.dense[1]


def test_masked_dense_is_hollow_and_lies_below_what_is_real():
    shown = points([row("channel", "compacted", 3.0), row("unstructured"), row("channel", "bmm", 2.0)])
    assert [point.mark.hollow for point in shown] == [True, False, False]
    assert {point.mark.colour for point in shown} == {"s0", "s2"}
    assert len({point.mark.shape for point in shown if not point.mark.hollow}) == 2
    legend = {text: mark for mark, text in speedups([row()], STRUCTURES).legend}
    assert legend["masked-dense: no speed-up claimed"].hollow
    assert "unstructured" in legend
    assert "channel" not in legend


def test_seeds_of_which_one_ran_masked_dense_claim_nothing():
    [point] = points([row(path="compacted; masked-dense", ratio=2.0)])
    assert point.mark.hollow


def test_controls_and_disturbed_timings():
    dense = row(path="dense", control="dense")
    small = row(path="dense", control="small-dense", ratio=1.5)
    shown = points([dense, small, row(path="compacted", contended=True)])
    assert len(shown) == 2
    assert {point.pale for point in shown} == {True, False}
    assert [point.mark.shape for point in shown if not point.pale] == [DENSE]
    assert "control: a smaller dense network" in [text for _, text in speedups([small], STRUCTURES).legend]
    assert "beside other work" in next(point.tip for point in shown if point.pale)


def test_what_was_not_timed_is_not_drawn():
    assert speedups([], STRUCTURES) is None
    assert speedups([row(inference_path=None, train_throughput_ratio=float("nan"))], STRUCTURES) is None
    plot = speedups([row(inference_theory=None)], STRUCTURES)
    assert [panel.title for panel in plot.panels] == ["Training"]


def test_more_structures_and_paths_than_marks_share_the_last():
    many = [f"structure {i}" for i in range(8)]
    plot = speedups([row(name, f"path {i}", 2.0) for i, name in enumerate(many)], many)
    texts = [text for _, text in plot.legend]
    assert "structure 5, structure 6, structure 7" in texts
    assert "path 4, path 5, path 6, path 7" in texts


def test_the_page_has_the_plot_where_something_was_timed(tmp_path, make, put, speed):
    record = make()
    write_leaderboards(put(tmp_path / "timed", [record]), tmp_path / "with")
    text = (tmp_path / "with" / "index.html").read_text("utf-8")
    assert text.count("measured against theoretical speed-up") == 2
    assert "masked-dense: no speed-up claimed" in text
    assert text.index("Measured against theoretical speed-up") > text.index('id="throughput"')
    record["measures"].pop("throughput")
    write_leaderboards(put(tmp_path / "untimed", [record]), tmp_path / "without")
    assert "theoretical speed-up</b>" not in (tmp_path / "without" / "index.html").read_text("utf-8")
