"""What readers do with a board's page, in a browser."""

from __future__ import annotations

import csv
import re
from itertools import combinations

import pytest

from dstbench.report.columns import COLUMNS
from dstbench.report.leaderboards import leaderboards
from dstbench.report.page import VIEWS, write_leaderboards
from dstbench.report.values import show
from dstbench.results.table import load_results
from fakes.records import make_record, measures_of, write

BOARD = ".board:not([hidden])"


def methods(page):
    return page.locator(f"{BOARD} .grid .open").all_inner_texts()


def fragment(page):
    return page.evaluate("location.hash")


def settled(page, condition):
    page.wait_for_function(condition)


def test_cells_say_what_the_tables_of_python_say(opened, board):
    page = opened()
    table = leaderboards(load_results(board / "results"))["accuracy"]
    keys = page.evaluate(
        "all => [...document.querySelectorAll('.dt-scroll-head th')].map(th => th.innerText)", 0
    )
    titles = {column.title: column for column in COLUMNS.values() if column.key in table}
    shown = page.evaluate(
        "() => [...document.querySelectorAll('.grid tbody tr')].map(tr => [...tr.cells].map(td => td.innerText))"
    )
    assert len(shown) == len(table)
    compared = 0
    for cells, row in zip(shown, table.to_dict("records"), strict=True):
        for title, cell in zip(keys, cells, strict=True):
            column = titles.get(title.strip())
            if column and column.kind not in ("method", "trials", "flag"):
                assert cell.startswith(show(column.kind, row[column.key])), (title, cell)
                compared += 1
    assert compared >= 10 * len(table)


def test_the_header_sorts_and_the_address_says_so(opened):
    page = opened()
    page.get_by_role("button", name=re.compile("^top-1")).click()
    settled(page, "location.hash.includes('sort=top1%3Adown')")
    sorted_methods = methods(page)
    assert sorted_methods[0] == "dense"
    assert page.locator(".dt-scroll-head th[aria-sort=descending]").count() == 1
    again = opened(fragment(page))
    assert methods(again) == sorted_methods


def test_missing_values_are_last_in_either_direction(opened):
    for direction in ("up", "down"):
        page = opened(f"#sort=top1:{direction}")
        values = page.evaluate(
            "[...document.querySelectorAll('.grid tbody td.k-accuracy')].map(td => td.innerText)"
        )
        known = [value != "–" for value in values]
        assert known == sorted(known, reverse=True)
        assert not known[-1]


def test_filters_and_search_leave_rows_cards_and_points(opened):
    page = opened()
    page.select_option("[data-filter=dataset]", "mnist")
    settled(page, "document.getElementById('count').textContent === '6 of 12 rows'")
    page.fill("#q", "rigl")
    settled(page, "document.getElementById('count').textContent === '1 of 12 rows'")
    assert methods(page) == ["rigl"]
    assert page.locator("#plot circle").count() == 1
    assert "dataset=mnist" in fragment(page)
    assert "q=rigl" in fragment(page)
    assert methods(opened(fragment(page))) == ["rigl"]
    page.click("text=Reset")
    settled(page, "document.getElementById('count').textContent === '12 of 12 rows'")
    page.go_back()
    settled(page, "document.getElementById('count').textContent === '1 of 12 rows'")


def test_a_row_opens_with_all_that_is_known_and_has_a_link(opened, board):
    page = opened()
    page.locator(".grid .open", has_text="rigl").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    text = page.inner_text("#panel-body")
    facts = ("93.67 [90.80, 96.54]", "abc1234", "a CPU", "2026-11-20T10:00:00Z", "conv1", "0.2500", "grow 1")
    assert [fact for fact in facts if fact not in text] == []
    assert page.locator("#panel-body .curves figure").count() == 5
    loss = page.locator(".curves svg").first.get_attribute("aria-label")
    assert loss == "training loss: 2 at epoch 1, 1 at epoch 2"
    with (board / "accuracy.csv").open(encoding="utf-8") as file:
        assert "rigl" in {row["method"] for row in csv.DictReader(file)}
    linked = opened(fragment(page))
    linked.wait_for_selector("dialog[open]")
    assert linked.inner_text("#panel-title") == "rigl"
    page.keyboard.press("Escape")
    settled(page, "!location.hash.includes('row=')")
    assert page.locator("dialog[open]").count() == 0


def test_a_row_without_a_result_says_why(opened):
    page = opened("#q=skipped")
    page.click(".grid .open")
    page.wait_for_selector("dialog[open]")
    assert "6 <channels> can't hold 5 weights </script>" in page.inner_text("#panel-body")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("view", [name for name, _ in VIEWS])
def test_plots_name_points_and_no_label_covers_or_leaves_anything(opened, view, width):
    page = opened(f"#x={view}", width=width)
    assert page.locator("#plot circle").count() == 6
    assert page.locator("#plot .tag").count() >= 1
    no_label_covers_or_leaves_anything(page)


def no_label_covers_or_leaves_anything(page):
    boxes = page.evaluate(
        """() => ['#plot svg', '#plot .tag', '#plot circle', '#plot text:not(.tag)'].map((selector) =>
          [...document.querySelectorAll(selector)].map((node) => {
            const box = node.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
          }))"""
    )
    [frame], tags, points, others = boxes

    def overlap(one, other):
        return (
            one[0] < other[2] - 1
            and one[2] > other[0] + 1
            and one[1] < other[3] - 4
            and one[3] > other[1] + 4
        )

    for tag in tags + others:
        assert frame[0] <= tag[0] + 1
        assert tag[2] - 1 <= frame[2]
        assert frame[1] <= tag[1] + 2
        assert tag[3] - 2 <= frame[3]
    assert not [pair for pair in combinations(tags + others, 2) if overlap(*pair)]
    assert not [(tag, point) for tag in tags for point in points if overlap(tag, point)]


def test_points_are_read_and_opened_by_keyboard(opened):
    page = opened()
    page.focus("#x")
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "top-1" in first
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert second != first
    assert page.inner_text("#tip") == second
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.inner_text("#panel-title") == second.splitlines()[0].removesuffix(" (control)")


@pytest.mark.parametrize("width", [1400, 390])
def test_a_board_of_losses_speaks_of_losses(opened, losses, width):
    """One method is so much worse that its point lies on the edge of the plot, right below the axis's title."""
    page = opened(width=width, file=losses)
    no_label_covers_or_leaves_anything(page)
    assert page.inner_text("#costs") == "What a low loss costs"
    assert "loss (nats per token), lower is better" in page.inner_text("#plot")
    said = page.inner_text("body")
    assert not re.findall(r"top-1|accura|points", said, re.IGNORECASE)
    assert "What is really faster, and at what loss?" in said
    better, worse = (page.locator(f"tr:has(.open:text-is('{name}')) td.k-points") for name in ("set", "rigl"))
    assert better.inner_text().startswith("−0.0983")
    assert "good" in better.get_attribute("class").split()
    assert better.get_attribute("data-tip").endswith("better than dense")
    assert "poor" in worse.get_attribute("class").split()
    page.focus("#x")
    page.keyboard.press("Tab")
    assert "loss (nats per token) 1.2" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.click(".grid .open:text-is('set')")
    page.wait_for_selector("dialog[open]")
    assert "1.203 [1.1" in page.inner_text("#panel-body")


def test_a_metric_of_others_is_text_alone(opened, tmp_path):
    """The title of what a record is ranked by is its writer's: no markup comes of it."""
    title = "loss <img src=x onerror=alert(1)> (nats)"
    measures = measures_of(0.0) | {"metric": {"key": "loss", "title": title, "better": "lower"}, "score": 1.5}
    del measures["top1"]
    records = [make_record("rigl", 0, measures=measures | {"task": "own", "metrics": {"loss": 1.5}})]
    write_leaderboards(write(tmp_path / "results", records), tmp_path)
    page = opened(file=tmp_path / "index.html")
    page.click(".grid .open")
    page.wait_for_selector("dialog[open]")
    assert page.locator("img").count() == 0
    assert title in page.inner_text(".dt-scroll-head")
    assert "perplexity" not in page.inner_text(".dt-scroll-head")


def test_paper_has_the_plot_and_the_table(opened, losses):
    page = opened(file=losses, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#plot svg").is_visible()
    assert page.locator(".open:text-is('rigl')").is_visible()
    assert page.locator("#filters").is_hidden()
    assert page.locator(f"{BOARD} h2").inner_text() == "Loss"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_columns_are_picked_and_escape_closes_them(opened):
    page = opened()
    page.click("#columns summary")
    page.get_by_role("checkbox", name="loss").check()
    page.wait_for_selector("th:has-text('loss')")
    assert "show=loss" in fragment(page)
    page.keyboard.press("Escape")
    assert page.evaluate("document.getElementById('columns').open") is False


def test_tabs_are_walked_by_arrows(opened):
    page = opened()
    page.focus("#tab-accuracy")
    page.keyboard.press("ArrowRight")
    settled(page, "location.hash === '#board=flops'")
    assert page.locator(BOARD).get_attribute("id") == "flops"


def test_a_large_board_has_the_rows_in_sight_alone(opened, tmp_path):
    records = [make_record("rigl", 0, 50 + i / 100, trial={"n": i}) for i in range(600)]
    write_leaderboards(write(tmp_path / "results", records), tmp_path)
    page = opened(file=tmp_path / "index.html")
    assert page.locator(".grid tbody tr").count() <= 200
    assert "600 of 600 rows" in page.inner_text("#count")
    page.evaluate("document.querySelector('.dt-scroll-body').scrollTo(0, 1e6)")
    page.wait_for_selector(".grid tbody td:has-text('50.00')")
    assert page.locator(".grid tbody tr").count() <= 200


def test_without_scripts_all_rows_are_there(opened):
    page = opened(java_script_enabled=False, rows=False)
    assert page.locator(".board table tbody tr").count() == 3 * 12
    assert page.locator("#filters").is_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "light")])
@pytest.mark.parametrize("where", ["", "#board=throughput", "#q=rigl&row="])
def test_axe_finds_nothing_serious(opened, board, width, scheme, where):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = opened(where.removesuffix("row="), width=width, color_scheme=scheme)
    if where.endswith("row="):
        page.locator(".grid .open").first.click()
        page.wait_for_selector("dialog[open]")
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
