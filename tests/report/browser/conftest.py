"""Pages in Debian's Chromium, driven by Playwright; where one of them is missing, these tests are skipped."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from dstbench.report.page import write_leaderboards
from dstbench.results.record import folder_of
from fakes.records import make_record, make_records, measures_of, recipe_of, write

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 120_000  # milliseconds that a loaded machine may take for one step


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("needs a chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """A board with curves: two blocks of three methods and three controls, one method in trouble."""
    root = tmp_path_factory.mktemp("board")
    records = make_records()
    for record in records:
        if record["measures"]:
            record["measures"] |= {
                "bits": 1000.0 + 100 * record["measures"]["top1"],
                "layers": [{"name": "conv1", "shape": [4, 1, 3, 3], "active": 9}],
                "exploration": {"epoch": [0, 1, 2], "r_s": [0.1, 0.3, 0.4], "never_dropped": [1.0, 0.9, 0.8]},
            }
    write(root / "results", records)
    lines = [{"epoch": e, "loss": 2.0 / e, "top1_validation": 40.0 * e, "density": 0.3 / e} for e in (1, 2)]
    rigl = next(record for record in records if record["label"] == "rigl")
    (folder_of(root / "results", rigl["key"]) / "curve.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines) + '{"epoch": 3, "lo'
    )
    write_leaderboards(root / "results", root)
    return root


@pytest.fixture(scope="session")
def losses(tmp_path_factory):
    """A board of a text: a method that beats dense, one that is a little worse, and two far off."""
    root = tmp_path_factory.mktemp("losses")
    metric = {"key": "loss", "title": "loss (nats per token)", "better": "lower"}
    records = []
    for place, (label, loss) in enumerate(
        {"dense": 1.3, "set": 1.2, "rigl": 1.5, "mest": 1.55, "gmp": 1.6, "snip": 3.0, "static": 3.2}.items()
    ):
        for seed in range(3):
            control = label if label in ("dense", "static") else None
            recipe = (
                {"dense": True} if control == "dense" else recipe_of(("erk", "unstructured", "set", label))
            )
            flops = 1.0 if label == "dense" else 0.1 + place / 50
            value = loss + (0.001, 0.004, 0.0)[seed] * (1 + place % 3)
            measures = measures_of(0.0, flops=flops) | {
                "task": "next_token",
                "metric": metric,
                "score": value,
            }
            del measures["top1"]
            density = {"density": 1.0} if label == "dense" else {}
            records.append(
                make_record(label, seed, dataset="verses", recipe=recipe, control=control, trial=density)
                | {"measures": measures | {"metrics": {"loss": value}}}
            )
    write_leaderboards(write(root / "results", records), root)
    return root / "index.html"


@pytest.fixture
def opened(chromium, board):
    """Opens a page: ``opened("#q=rigl", width=390)``; what its console complains of fails the test."""
    contexts, complaints = [], []

    def open_page(fragment="", width=1400, file=board / "index.html", rows=True, **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{file.as_uri()}{fragment}")
        if rows:
            page.wait_for_selector(".grid tbody tr")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
