"""One row a measure: what is in the table is in the record's schema, the frame, the means and on the boards."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dstbench.report.boards import BOARDS
from dstbench.report.columns import COLUMNS
from dstbench.results.measure_table import MEASURES
from dstbench.results.record import seal

NEW_MEASURE = """
import json, sys
from pathlib import Path
from dstbench.results.measure_table import MEASURES, MeasureRow

MEASURES["patience"] = MeasureRow("patience", "fraction", "patience", "How patient it was.", boards=("flops",))

from dstbench.report.page import write_leaderboards
from dstbench.results.record import folder_of, write_record
from dstbench.results.table import load_results

folder = Path(sys.argv[1])
records = json.loads(sys.stdin.read())
for record, patience in zip(records, (0.25, 0.75)):
    record["measures"]["patience"] = patience
    write_record(record, folder_of(folder, record["key"]))
refused = ""
try:
    write_record({**records[0], "measures": {"patience": "much"}}, folder / "refused")
except ValueError as error:
    refused = str(error)
written = write_leaderboards(folder, folder / "boards")
print(json.dumps({
    "refused": refused,
    "frame": sorted(load_results(folder)["patience"]),
    "boards": {name: list(table.get("patience", ())) for name, table in written.tables.items()},
    "markdown": (folder / "boards" / "flops.md").read_text("utf-8").splitlines()[4],
    "page": (folder / "boards" / "index.html").read_text("utf-8").count('title="How patient it was."'),
}))
"""


def test_a_new_measure_is_one_row(make, tmp_path):
    """In a process of its own, for which the table has a row more."""
    records = json.dumps([make(seed=seed) for seed in range(2)])
    call = [sys.executable, "-c", NEW_MEASURE, str(tmp_path)]
    done = subprocess.run(call, input=records, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    assert "measures.patience: " in shown["refused"]
    assert "'much'" in shown["refused"]
    assert shown["frame"] == [0.25, 0.75]
    assert shown["boards"] == {"accuracy": [], "flops": [0.5], "throughput": []}
    assert "| patience |" in shown["markdown"]
    assert shown["page"] == 1


@pytest.mark.parametrize("key", [key for key, row in MEASURES.items() if row.type])
def test_every_recorded_measure_may_be_missing_or_none_and_is_typed(make, key):
    assert seal(make(measures={key: None}))["measures"] == {key: None}
    with pytest.raises(ValueError, match=rf"measures\.{key}: "):
        seal(make(measures={key: 7 if MEASURES[key].type is str else "seven"}))


def test_what_a_row_names_is_there():
    names = {board.name for board in BOARDS}
    for key, row in MEASURES.items():
        assert row.key == key
        assert set(row.boards) <= names
        assert bool(row.boards) == bool(row.title), f"{key}: a column is on a board, and has a title"
        assert not row.inverse_of or row.inverse_of in MEASURES
    for board in BOARDS:
        assert MEASURES[board.by].better
        assert set(board.leads) <= COLUMNS.keys()
