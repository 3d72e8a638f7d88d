"""Every plot as a picture of its own."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.report.plots import plots, write_plots
from dstbench.results.table import read


@pytest.fixture
def explored(tmp_path, make, put):
    """Two methods and dense, one of them with a trajectory."""
    records = [make("rigl", seed, 90.0 + seed) for seed in range(3)]
    for record in records:
        record["measures"]["exploration"] = {"epoch": [0, 1, 2], "r_s": [0.1, 0.2, 0.25]}
    dense = [make("dense", s, 95.0, density=1.0, recipe={"dense": True}, control="dense") for s in range(3)]
    for record in dense:
        record["measures"]["training_flops_ratio"] = 1.0
    hostile = make("set", 0, 80.0) | {"label": "</svg><script>alert(1)</script>\x07"}
    return put(tmp_path / "results", [*records, *dense, hostile])


def test_every_plot_is_a_picture_without_scripts(explored):
    pictures = plots(read(explored))
    assert {
        "leaderboard", "top1-training-flops-ratio-small-cnn-digits", "top1-density-small-cnn-digits",
        "top1-inference-throughput-ratio-small-cnn-digits", "speedup-inference", "speedup-training",
        "epochs-r-s-small-cnn-on-digits-at-density-0.1",
    } <= pictures.keys()  # fmt: skip
    for svg in pictures.values():
        root = ElementTree.fromstring(svg)
        assert "<script" not in svg
        width, height = float(root.get("width")), float(root.get("height"))
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 <= float(text.get("x")) <= width
            assert 0 <= float(text.get("y")) <= height


def test_the_same_results_give_the_same_pictures(explored):
    assert plots(read(explored)) == plots(read(explored))


def test_points_lie_where_their_values_are(explored):
    """Dense, at 1 on the axis of FLOPs, is right of rigl, at 0.12, and above it."""
    svg = ElementTree.fromstring(plots(read(explored))["top1-training-flops-ratio-small-cnn-digits"])
    name = "{http://www.w3.org/2000/svg}"
    at = {
        path.find(f"{name}title").text: [float(part) for part in path.get("transform")[10:-1].split()]
        for path in svg.iter(f"{name}path")
    }
    assert at["dense"][0] > at["rigl"][0]
    assert at["dense"][1] < at["rigl"][1]


def test_png(explored, tmp_path):
    pytest.importorskip("vl_convert")
    files = write_plots(read(explored), tmp_path / "out", png=True)
    assert len(files) % 2 == 0
    assert all(file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for file in files if file.suffix == ".png")


def test_the_command(explored, tmp_path):
    done = CliRunner().invoke(app, ["plots", str(explored), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "leaderboard.svg" in {file.name for file in (tmp_path / "out").iterdir()}
