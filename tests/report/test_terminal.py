"""Tables in a terminal: whatever its width, names and digits are whole; whatever its encoding, nothing is lost."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from dstbench.cli import streams
from dstbench.report.comparison_text import render_comparison
from dstbench.report.leaderboards import leaderboards
from dstbench.report.sheet import Entry, Field, Sheet
from dstbench.report.text import render_text, render_trials
from dstbench.report.values import show
from dstbench.results.table import load_results

WIDTHS = (*range(60, 140, 3), 80, 160, 200)
LONG = "uniform · shuffled_block(block_size=8) · magnitude(share=uniform) · momentum"
LONGEST = f"static(init=uniform, structure={LONG}, dense_layers=@first_conv+@classifier)"


def printed(renderable, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def words(text):
    return re.sub(r"\s+", " ", text)


@pytest.fixture(params=[1, 3], ids=["one seed", "three seeds"])
def tables(request, tmp_path, make, put):
    """Names short and long, accuracies far enough apart for wide intervals."""
    records = []
    for seed in range(request.param):
        records += [
            make("dense", seed, 95 + seed, density=1.0, recipe={"dense": True}, control="dense"),
            make("rigl", seed, 10.0 + 40 * seed),
            make(LONG, seed, 93.25 + seed, recipe={"init": {"name": "uniform"}}),
            make(LONGEST, seed, 92.75 - seed, recipe={"init": {"name": "x"}}, control="static"),
        ]
    return leaderboards(load_results(put(tmp_path / "results", records)))


def test_a_heading_shortens_a_name_of_thousands_of_characters(tables):
    text = "\n".join(printed(render_text({"accuracy": tables["accuracy"].assign(model="m" * 5000)}), 200))
    assert f"{79 * 'm'}… on " in text
    assert 80 * "m" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_names_and_digits_are_whole_at_every_width(tables, width):
    lines = printed(render_text(tables, None), width)
    assert max(map(len, lines)) <= width
    text = words("\n".join(lines))
    for row in tables["accuracy"].to_dict("records"):
        assert row["method"] in text
        figures = [show("fraction", row["density"]), show("accuracy", row["top1"])]
        if row["seeds"] > 1:
            figures[-1] += f" ±{row['top1_high'] - row['top1']:.2f}"
        figures += [show("points", row["difference"]), show("speed", row["inference_throughput_ratio"])]
        after = text[text.index(row["method"]) :]
        found = [re.search(rf"(?<![\d.±−]){re.escape(figure)}(?![\d.])", after) for figure in figures]
        assert all(found), (width, row["method"], figures)
    assert "…" not in text


def test_at_80_columns_the_least_needed_columns_go_and_are_named(tables):
    wide, narrow = ("\n".join(printed(render_text(tables, None), width)) for width in (200, 80))
    assert "no room for" not in wide
    assert "R_s" in wide
    assert re.search(r"^no room for: R_s, ", narrow, re.MULTILINE)
    heading = next(line for line in narrow.splitlines() if "top-1 %" in line)
    assert "R_s" not in heading
    assert [word for word in ("density", "n", "Δ dense", "infer") if word not in heading] == []


def test_figures_stand_below_their_titles():
    sheet = Sheet(
        (Field("n"), Field("speed\ntrain"), Field("why", right=False)),
        (
            (
                Entry("a", ("1", "2.00×", "b")),
                Entry("much too long a name", ("10", "0.5×", "")),
            ),
        ),
        lead="#",
    )
    assert printed(sheet, 60) == [
        "                              speed",
        " #  method                 n  train  why",
        "────────────────────────────────────────",
        "    a                      1  2.00×  b",
        "    much too long a name  10   0.5×",
    ]
    assert printed(sheet, 30)[-3:] == [
        "    a        1  2.00×  b",
        "    much too long a name",
        "            10   0.5×",
    ]


def test_other_tables_crop_nothing_either(tmp_path, results):
    from dstbench.report.compare import compare
    from dstbench.results.table import frame, read

    trials = frame(read(results).records)
    for renderable in (render_comparison(compare(results, results)), render_trials(trials)):
        for width in (60, 80, 120):
            lines = printed(renderable, width)
            assert max(map(len, lines)) <= width
            assert "93.67" in "".join(lines) or "93.00" in "".join(lines)
            assert "…" not in "".join(lines).replace("…/", "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1"])
def test_a_stream_takes_what_its_encoding_lacks(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    streams.forgive()
    print("−3.06 ±1.77 · 2.43× ◂ 漢 é", flush=True)
    text = raw.getvalue().decode(encoding)
    assert len(text.rstrip("\r\n")) == len("−3.06 ±1.77 · 2.43× ◂ 漢 é")
    assert text.startswith("-3.06 ")  # a number without its sign would be another number
    assert text.replace("×", "x").split()[3] == "2.43x"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_board_is_printed_to_a_stream_of_few_characters(results, encoding):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "dstbench", "leaderboard", str(results)]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dense <" in done.stdout.decode(encoding)
    assert "-2.33" in done.stdout.decode(encoding)
