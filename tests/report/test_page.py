from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dstbench.errors import BadInput
from dstbench.report import page as page_module
from dstbench.report.columns import COLUMNS
from dstbench.report.leaderboards import leaderboards
from dstbench.report.page import write_leaderboards
from dstbench.report.page_cells import gained, metric_axis
from dstbench.report.page_data import encoded
from dstbench.report.picture import AXIS
from dstbench.report.text import render_text, to_json
from dstbench.results.record import FILE, folder_of
from dstbench.results.table import load_results
from fakes.pages import data_of, rows_of

FILES = {"index.html", "leaderboard.svg"} | {
    f"{name}.{end}" for name in ("accuracy", "flops", "throughput") for end in ("csv", "md")
}


@pytest.fixture
def written(results, tmp_path):
    folder = tmp_path / "boards"
    write_leaderboards(results, folder)
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


class Page(HTMLParser):
    """Collects the rows of the tables, what scripts hold, and every address."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.cells, self.scripts, self.addresses, self.inside = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]
        self.inside = [tag, *self.inside]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in self.inside:
            self.inside = self.inside[self.inside.index(tag) + 1 :]

    def handle_data(self, data):
        if "script" in self.inside:
            self.scripts.append(data)
        elif "td" in self.inside:
            self.rows[-1][-1] += data


def test_every_file_is_written(written):
    assert set(written) == FILES


def test_the_page_needs_no_network(written):
    text = written["index.html"]
    others = r"<script>\s*/\*! (DataTables|Scroller).*?</script>|<!-- DataTables.*?-->"
    ours = re.sub(others, "", text, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s\"'<)]+", ours)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in ours
    assert "fetch(" not in ours
    assert set(Page(text).addresses) == {
        f"{name}.{end}" for name in ("accuracy", "flops", "throughput") for end in ("csv", "md")
    }
    assert "default-src 'none'" in text


def test_every_row_is_in_the_page_without_scripts(written):
    rows = [row for row in Page(written["index.html"]).rows if len(row) > 6]  # sections have smaller tables
    assert len(rows) == 3 * 12
    assert any(row[1].startswith("rigl") and "93.67 [90.80, 96.54]" in row for row in rows)
    assert any("can't hold 5 weights </script>" in row[-1] for row in rows)


def test_text_of_results_cannot_become_markup(written):
    text = written["index.html"]
    assert "<channels>" not in text
    assert text.count("</script>") == 4 + 2  # the page's, and the section's about groups
    reasons = {row["reason"] for row in rows_of(text)}
    assert "skipped: layer conv1: 6 <channels> can't hold 5 weights </script>" in reasons


def test_the_page_data_has_null_for_what_is_missing(written):
    never = next(row for row in rows_of(written["index.html"]) if row["seeds"] == 0)
    assert never["top1"] is None


def test_the_page_holds_each_figure_once_and_as_the_csv_has_it(written):
    """Boards are orders of the same rows."""
    data, rows = data_of(written["index.html"]), rows_of(written["index.html"])
    for board in data["boards"]:
        csv_rows = list(csv.DictReader(io.StringIO(written[f"{board['name']}.csv"])))
        ordered = [rows[place] for place in board["order"] or range(len(rows))]
        assert [row["method"] for row in ordered] == [row["method"] for row in csv_rows]
        for key in ("top1", "training_flops_ratio", "inference_throughput_ratio", "control", "reason"):
            theirs = [row[key] for row in csv_rows] if key in csv_rows[0] else None
            if theirs:
                for row, text in zip(ordered, theirs, strict=True):
                    value = "" if row[key] is None else row[key]
                    assert value == text or float(f"{float(text):.5g}") == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "as_written"),
    [
        ([0.1, 0.1, 0.1], {"all": 0.1}),
        ([], {"all": None}),
        (["a", None, "a"], {"words": ["a", None], "at": [0, 1, 0]}),
        ([None, None, 2.0], {"rows": [2], "values": [2]}),
        ([1.23456789, math.nan, 3e20], {"values": [1.2346, None, 3e20]}),
        ([True, 1, None], {"values": [True, 1, None]}),
    ],
)
def test_columns_take_the_smallest_of_their_forms(values, as_written):
    assert encoded(values, 5) == as_written


def test_the_page_says_where_figures_come_from(written):
    text = written["index.html"]
    facts = ("abc1234", "2.15.0", "a CPU", "Student-t", "Holm", "mac: multiply", "2026-11-20T10:00:00Z")
    assert [fact for fact in facts if fact not in text] == []
    assert "<dt>tuning</dt><dd>none at all</dd>" in text
    assert "Measured for 33 of 33 finished trials" not in text  # 32: four of 36 did not finish
    assert "Measured for 32 of 32 finished trials" in text


def test_files_that_were_left_out_are_named_by_their_place_in_the_results(results, records, tmp_path):
    path = folder_of(results, records[0]["key"]) / FILE
    path.write_text("{")
    done = write_leaderboards(results, tmp_path / "boards")
    assert len(done.rejected) == 1
    text = (tmp_path / "boards" / "index.html").read_text(encoding="utf-8")
    assert f"{records[0]['key'][:2]}/{records[0]['key']}/result.json: is not valid JSON" in text


def test_the_same_results_give_the_same_bytes_wherever_they_are(records, put, tmp_path):
    for name, order in (("one", records), ("another/place", records[::-1])):
        write_leaderboards(put(tmp_path / name / "results", order), tmp_path / name / "boards")
    for file in FILES:
        first, second = (tmp_path / name / "boards" / file for name in ("one", "another/place"))
        assert first.read_bytes() == second.read_bytes()
        assert str(tmp_path) not in first.read_text(encoding="utf-8")
        assert "/home/" not in first.read_text(encoding="utf-8")


def test_csv_leaves_missing_empty_and_round_trips(written):
    rows = list(csv.DictReader(io.StringIO(written["accuracy.csv"])))
    assert len(rows) == 12
    rigl = next(row for row in rows if row["method"] == "rigl")
    assert (rigl["top1"], rigl["seeds"], rigl["control"]) == ("93.6667", "3", "")
    never = next(row for row in rows if row["statuses"] == "3 skipped")
    assert (never["top1"], never["training_flops_ratio"]) == ("", "")
    assert "\r" not in written["accuracy.csv"]


def test_markdown_is_one_table_with_dashes_for_missing(written):
    board = written["accuracy.md"].partition("\n## ")[0]
    lines = [line for line in board.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 12
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert any(line.startswith("| – | *dense* |") for line in lines)
    never = next(line for line in lines if "3 skipped" in line)
    assert "| – |" in never
    assert "&lt;channels>" in never


def test_the_picture_is_an_svg_without_scripts(written):
    root = ElementTree.fromstring(written["leaderboard.svg"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "script" not in written["leaderboard.svg"]
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"rigl", "set", "dense (control)", "small_cnn on digits at density 0.1"} <= set(texts)


def test_the_picture_keeps_to_percent_whatever_the_interval(tmp_path, make, put):
    """Two seeds that are far apart have a t-interval of several hundred points."""
    records = [make("rigl", seed, top1) for seed, top1 in enumerate((20.0, 90.0))]
    write_leaderboards(put(tmp_path / "results", records), tmp_path)
    picture = (tmp_path / "leaderboard.svg").read_text("utf-8")
    root = ElementTree.fromstring(picture)
    svg = "{http://www.w3.org/2000/svg}"
    ticks = [float(e.text) for e in root.iter(f"{svg}text") if e.get("class") == "soft mid"]
    assert ticks == [20, 40, 60, 80, 100]
    [interval] = [e for e in root.iter(f"{svg}line") if e.get("class") == "ci"]
    assert (float(interval.get("x1")), float(interval.get("x2"))) == AXIS


def test_a_control_far_from_all_methods_is_marked_and_does_not_squeeze_them(tmp_path, make, put):
    """From the lowest method to dense, and a twentieth more at both ends; the mean of the other is written."""
    records = [
        make("dense", 0, 64.0, recipe={"dense": True}, control="dense"),
        make("rigl", 0, 54.0),
        make("static", 0, 9.0, recipe={"prune": None}, control="static"),
    ]
    write_leaderboards(put(tmp_path / "results", records), tmp_path)
    picture = (tmp_path / "leaderboard.svg").read_text("utf-8")
    start, end = AXIS
    dots = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', picture)]
    assert dots == [round(start + (end - start) * share, 1) for share in (0.5 / 11, 10.5 / 11)]
    assert re.findall(r'<path class="dot" d="M([\d.]+) ', picture) == [str(start - 5)]
    assert "triangles: off the axis" in picture
    assert ">9.00<" in picture


def test_the_picture_shortens_names_as_far_as_they_differ(tmp_path, make, put):
    blocks = "structure=shuffled_block(block_size=8)"
    labels = (
        "static",
        "static(init=uniform)",
        f"static({blocks})",
        "erk · shuffled_block(block_size=8) · set",
    )
    recipe = {"init": {"name": "erk"}}
    records = [make(label, recipe=recipe, trial={"density": 0.1, "n": i}) for i, label in enumerate(labels)]
    write_leaderboards(put(tmp_path / "results", records), tmp_path)
    names = re.findall(r'class="name"[^>]*>([^<]*)<', (tmp_path / "leaderboard.svg").read_text("utf-8"))
    assert sorted(names) == [
        "erk · shuffled_block · set",
        "static",
        "static(init=uniform)",
        "static(structure=shuffled_block)",
    ]


def test_no_results_still_make_a_page(tmp_path):
    (tmp_path / "none").mkdir()
    done = write_leaderboards(tmp_path / "none", tmp_path / "boards")
    assert {file.name for file in done.files} == FILES
    with pytest.raises(BadInput, match="existing folder"):
        write_leaderboards(tmp_path / "nowhere", tmp_path / "boards")


def shown(tables, limit, width=110):
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render_text(tables, limit))
    return console.file.getvalue()


def test_the_terminal_table_fits_and_names_what_failed(results):
    text = shown(leaderboards(load_results(results)), None)
    assert max(map(len, text.splitlines())) <= 110
    assert "93.67 ±2.87" in text
    assert "dense ◂" in text
    assert "oom: CUDA out of memory" in text
    assert "… and" not in text


def test_the_terminal_table_says_what_it_leaves_out(results):
    text = shown(leaderboards(load_results(results)), 1)
    assert "… and 2 more methods" in text
    assert "set " not in text


def test_no_results_are_said_in_words(tmp_path):
    assert "No results yet" in shown(leaderboards(load_results(tmp_path)), 5)


def test_json_is_an_array_with_the_name_first(results):
    rows = json.loads(to_json(leaderboards(load_results(results))["accuracy"]))
    assert len(rows) == 12
    assert all(next(iter(row)) == "name" for row in rows)
    assert rows[0]["name"] == "dense"
    assert rows[0]["difference"] is None


def test_highlights_call_no_gain_what_is_within_timing_noise(tmp_path, make, put, speed):
    def page(ratio, path="compacted"):
        record = make()
        record["measures"]["throughput"] = speed(ratio, path=path)
        folder = tmp_path / f"{ratio}-{path}"
        write_leaderboards(put(folder / "results", [record]), folder)
        return (folder / "index.html").read_text(encoding="utf-8")

    assert "<b>no gain</b><em>highest: 1.03×, compacted</em>" in page(1.03)
    assert "<b>2.00×</b><em>rigl at density 0.1, compacted, 91.00 %, one seed</em>" in page(2.0)
    assert "<b>no gain</b><em>highest: 1.30×, masked-dense</em>" in page(1.3, "masked-dense")


@pytest.mark.parametrize(("path", "gain"), [("compacted", True), ("masked-dense", False), ("dense", False)])
def test_only_a_path_that_skips_zeros_can_be_a_gain(path, gain):
    key = "inference_throughput_ratio"
    row = {key: 1.3, f"{key}_low": 1.2, f"{key}_high": 1.4, "inference_path": path, "contended": False}
    assert gained(row, key) is gain


def test_single_seeds_are_not_numbered_and_the_reader_is_told(tmp_path, make, put):
    write_leaderboards(put(tmp_path / "results", [make()]), tmp_path)
    page, picture = ((tmp_path / name).read_text("utf-8") for name in ("index.html", "leaderboard.svg"))
    assert "rigl at density 0.1, one seed: no evidence that it is the best" in page
    assert ">–</text>" in picture
    text = shown(leaderboards(load_results(tmp_path / "results")), None)
    assert re.search(r"^ *– +rigl ", text, re.MULTILINE)
    assert "one seed (n = 1): in order of top-1 but not numbered" in text


def test_numbered_rows_and_no_remark_from_two_seeds_on(tmp_path, make, put):
    text = shown(leaderboards(load_results(put(tmp_path, [make(seed=0), make(seed=1)]))), None)
    assert re.search(r"^ *1 +rigl ", text, re.MULTILINE)
    assert "one seed" not in text


def test_columns_say_what_their_figures_are():
    assert COLUMNS["loss"].help == "Mean cross-entropy of the final epoch on the test split."
    for kind in ("train", "inference", "single"):
        assert "quartiles over timing rounds" in COLUMNS[f"{kind}_throughput_ratio"].help
    assert "an update itself is not in it" in COLUMNS["train_throughput_ratio"].help


def test_a_far_outlier_does_not_flatten_the_interval_bars():
    accuracy = [
        {"top1": top1, "top1_low": None, "top1_high": None} for top1 in (10.0, 90.0, 91.0, 92.0, 93.0, 94.0)
    ]
    low, high = metric_axis(accuracy)
    assert 10 < low < 90
    assert high == 94
    assert metric_axis([]) == (0.0, 1.0)


def test_what_others_wrote_is_as_they_published_it_and_brings_its_license():
    folder = Path(page_module.__file__).parent / "templates" / "vendored"
    stated = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M)
    )
    scripts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}
    assert scripts == stated
    assert set(page_module.LIBRARIES) == set(scripts)
    assert "The MIT License" in (folder / "dataTables-LICENSE.txt").read_text()
