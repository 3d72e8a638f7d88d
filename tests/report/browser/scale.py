"""How long ten thousand trials take: to build their boards, to open the page, to sort and filter it in Chromium.

    PYTHONPATH=tests python tests/report/browser/scale.py leaderboards/quick/results 10000 /tmp/scale

multiplies records into new models, densities and seeds, each sealed anew, and prints seconds and sizes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import resource
import shutil
import statistics
import sys
import time
from pathlib import Path

from dstbench.results.curve_file import CURVE
from dstbench.results.record import FILE, folder_of, seal
from dstbench.results.table import read

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.8)
JITTERED = (
    "top1",
    "loss",
    "r_s",
    "training_flops_ratio",
    "inference_flops_ratio",
    "density",
    "seconds",
    "churn",
)


def multiply(source: Path, out: Path, count: int) -> None:
    """Write ``count`` records made from those of ``source``, with their curves."""
    loaded, rng = read(source), random.Random(0)
    for number in range(count):
        block, place = divmod(number, len(loaded.records))
        record = copy.deepcopy(loaded.records[place])
        trial, measures = record["trial"], record["measures"]
        trial["model"] = {"name": "small_cnn", "width": 1 + block // len(DENSITIES)}
        if record["control"] != "dense":
            trial["density"] = DENSITIES[block % len(DENSITIES)]
        elif block % len(DENSITIES):
            trial["training"] = {**trial.get("training", {}), "lr": 0.05 + block / 1000}
        measures |= {key: measures[key] * rng.uniform(0.9, 1.0) for key in JITTERED if measures.get(key)}
        record["key"] = hashlib.sha256(f"{block} {record['key']}".encode()).hexdigest()
        folder = folder_of(out, record["key"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(seal(record), indent=1) + "\n")
        curve = loaded.paths[loaded.records[place]["key"]].with_name(CURVE)
        if curve.is_file():
            shutil.copy(curve, folder / CURVE)


def build(results: Path, out: Path) -> None:
    """Write all boards and say what that took."""
    from dstbench.report.page import write_leaderboards

    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    written = write_leaderboards(results, out)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
    print(
        f"boards: {time.perf_counter() - began:.1f} s, {used:.1f} s of a processor; {len(written.rejected)} rejected"
    )
    print(f"page: {(out / 'index.html').stat().st_size / 1e6:.2f} MB")


def browse(file: Path) -> None:
    """Open the page, sort, filter, search, change boards and scroll: median milliseconds until it is painted, and of
    the processor (of the page's main thread), which other work on the machine doesn't lengthen as much."""
    from playwright.sync_api import sync_playwright

    painted = "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def used() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

        opened, cpu = [], []
        for _ in range(3):
            page.goto("about:blank")
            before = used()
            page.goto(file.resolve().as_uri())
            opened.append(page.evaluate(painted))
            cpu.append(used() - before)
        shown = page.locator(".grid tbody tr").count()
        print(
            f"opens: {statistics.median(opened):.0f} ms ({statistics.median(cpu):.0f} of a processor), {shown} rows"
        )
        for name, action in {
            "sorts": "document.querySelector('.board:not([hidden]) th.k-accuracy .dt-column-order').click()",
            "filters": "choose('[data-filter=density_requested]', 'change', (i) => (i % 2 ? '0.05' : ''))",
            "searches": "choose('#q', 'input', (i) => (i % 2 ? 'rigl' : 'erk set'))",
            "changes boards": "document.getElementById(i % 2 ? 'tab-flops' : 'tab-throughput').click()",
            "scrolls": "document.querySelector('.dt-scroll-body').scrollTo(0, 40000 * (i + 1))",
            "opens a row": "document.querySelector('.grid .open').click()",
        }.items():
            script = f"""async (i) => {{
                const choose = (where, event, value) => {{
                    const node = document.querySelector(where);
                    node.value = value(i);
                    node.dispatchEvent(new Event(event, {{ bubbles: true }}));
                }};
                const began = performance.now();
                {action};
                return (await {painted}) - began;
            }}"""
            before = used()
            taken = [page.evaluate(script, i) for i in range(5)]
            each = (used() - before) / 5
            print(
                f"{name}: {statistics.median(taken):.0f} ms (longest {max(taken):.0f}; {each:.0f} of a processor)"
            )
        browser.close()


if __name__ == "__main__":
    source, count, folder = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    if not (folder / "results").is_dir():
        multiply(source, folder / "results", count)
    build(folder / "results", folder)
    browse(folder / "index.html")
