"""Curves as a table: a row an epoch, and what is left out by name."""

from __future__ import annotations

import json

import dstbench
from dstbench.results.record import folder_of


def curve(folder, record, *lines):
    path = folder_of(folder, record["key"]) / "curve.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def test_a_row_an_epoch_joins_to_results(tmp_path, put, make):
    first, second, third = make("rigl"), make("set"), make("set", seed=1)
    put(tmp_path / "all" / "a", [first, second, third])
    points = [{"epoch": n, "loss": 1 / n, "top1_validation": 50.0 + n} for n in (1, 2)]
    curve(tmp_path / "all" / "a", first, *points)
    curve(tmp_path / "all" / "a", second, points[0], '{"epoch": 2, "lo')  # killed while it wrote
    table = dstbench.load_curves(tmp_path / "all")
    rows = {(row["label"], row["epoch"]): row["loss"] for row in table.to_dict("records")}
    assert rows == {("rigl", 1): 1.0, ("rigl", 2): 0.5, ("set", 1): 1.0}
    joined = table.join(dstbench.load_results(tmp_path / "all")[["model"]], on="key")
    assert set(joined["model"]) == {"small_cnn"}
    [left_out] = table.attrs["rejected"]
    assert left_out.endswith("curve.jsonl, line 2: expected a JSON object with an epoch, of figures")


def test_no_curves_is_an_empty_table(tmp_path, put, make):
    table = dstbench.load_curves(put(tmp_path, [make()]))
    assert len(table) == 0
    assert list(table.columns) == ["key", "label", "seed", "epoch"]
