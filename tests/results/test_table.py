from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from dstbench.errors import BadInput
from dstbench.results.record import FILE, checksum, folder_of, seal
from dstbench.results.table import load_results, read


def test_one_row_a_trial(results, records):
    table = load_results(results)
    assert len(table) == len(records) == 36
    assert list(table.index) == sorted(record["key"] for record in records)
    assert table.attrs["rejected"] == []
    rigl = table[(table["label"] == "rigl") & (table["dataset"] == "digits") & (table["seed"] == 1)].iloc[0]
    assert (rigl["init"], rigl["structure"], rigl["prune"], rigl["grow"]) == (
        "erk",
        "unstructured",
        "magnitude",
        "gradient",
    )
    assert (rigl["top1"], rigl["density"], rigl["density_requested"]) == (95.0, 0.101, 0.1)
    assert (rigl["train_throughput_ratio"], rigl["train_path"], rigl["contended"]) == (
        0.97,
        "masked-dense",
        False,
    )
    assert rigl["training"] == "epochs=12"


def test_a_record_whose_measurements_say_their_path_and_one_of_before(tmp_path, make, put, speed):
    own = speed(2.0)
    del own["path"]
    own["inference"] = own["single"] = own["inference"] | {"path": "compacted", "latency_median": 0.01}
    own["train"] = own["train"] | {"path": "masked-dense"}
    records = [make(seed=seed) for seed in range(2)]
    records[1]["measures"]["throughput"] = own | {"compile": "default"}
    table = load_results(put(tmp_path, records)).sort_values("seed")
    assert list(table["train_path"]) == ["masked-dense", "masked-dense"]
    assert list(table["inference_path"]) == ["masked-dense", "compacted"]
    assert list(table["single_path"]) == [None, "compacted"]
    assert table["single_latency_median"].iloc[1] == 0.01
    assert table["conditions"].iloc[1].endswith("precision float32, compile default")


def test_what_was_not_measured_is_missing_not_zero(results):
    table = load_results(results)
    skipped = table[table["status"] == "skipped"].iloc[0]
    assert pd.isna(skipped["top1"])
    assert pd.isna(skipped["train_throughput_ratio"])
    assert skipped["inference_path"] is None
    assert skipped["reason"].startswith("layer conv1")


def test_what_cannot_be_trusted_is_named_and_left_out(results, records):
    path = folder_of(results, records[0]["key"]) / FILE
    path.write_text(path.read_text().replace("97.", "99.").replace("95.", "99."))
    other = folder_of(results, records[1]["key"]) / FILE
    other.write_text(other.read_text()[:100])
    before = path.read_bytes(), other.read_bytes()
    table = load_results(results)
    assert len(table) == 34
    assert len(table.attrs["rejected"]) == 2
    assert any("checksum" in line and str(path) in line for line in table.attrs["rejected"])
    assert (path.read_bytes(), other.read_bytes()) == before


def test_two_folders_the_same_record_counts_once_another_is_rejected(tmp_path, make, put):
    first = put(tmp_path / "a", [make()])
    second = put(tmp_path / "b", [make(), make(seed=1)])
    assert len(load_results([first, second])) == 2
    third = put(tmp_path / "c", [make(top1=50.0)])
    loaded = read([first, third])
    assert [record["measures"]["top1"] for record in loaded.records] == [91.0]
    assert "another record of trial" in loaded.rejected[0].reason


def test_an_empty_folder_gives_an_empty_table_with_its_columns(tmp_path):
    table = load_results(tmp_path)
    assert table.empty
    assert {"top1", "label", "train_throughput_ratio"} <= set(table.columns)


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(BadInput, match="expected an existing folder"):
        load_results(tmp_path / "nothing")


def test_odd_but_valid_records_are_read(tmp_path, make, put):
    odd = make(provenance={"components": "none"}, measures={"throughput": None, "fallbacks": None})
    assert load_results(put(tmp_path, [odd])).iloc[0]["versions"] is None


def test_reading_does_not_import_torch_or_scipy(results):
    code = (
        "import sys; from dstbench.results.table import load_results; from dstbench.report.page import templates;"
        f"load_results({str(results)!r}); print([m for m in ('torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_record_with_more_fields_than_we_know_is_kept(tmp_path, make):
    record = {**seal(make()), "note": "from a fork"}
    record["checksum"] = checksum(record)
    path = folder_of(tmp_path, record["key"]) / FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    assert read(tmp_path).records[0]["note"] == "from a fork"


def test_seeds_that_are_timed_otherwise_are_one_method(tmp_path, make, put):
    records = [make(seed=seed) for seed in (0, 1)]
    records[1]["trial"]["measure"] = {"throughput": False}
    assert len(set(load_results(put(tmp_path, records))["trial"])) == 1
