"""The page over all boards: every board answers, every method has its parts, paper, formula and places."""

from __future__ import annotations

import html
import re
from pathlib import Path
from shutil import copytree

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.report.index import slug, write_index
from dstbench.report.page import write_leaderboards

ROOT = Path(__file__).parents[2] / "leaderboards"


@pytest.fixture
def page(tmp_path, records, put, make):
    put(tmp_path / "one" / "results", records)
    put(
        tmp_path / "two" / "results",
        [make("rigl", 0, 90.0), make("a stranger", recipe={"init": {"name": "?"}})],
    )
    (tmp_path / "no board").mkdir()
    return write_index(tmp_path, registry()).read_text("utf-8")


def section(page, at):
    """The text of the element with an id, up to the next one with an id."""
    start = page.index(f'id="{at}"')
    following = re.search(r' id="', page[start + 5 :])
    return html.unescape(re.sub(r"<[^>]+>", " ", page[start : start + 5 + following.start()]))


def test_every_board_is_linked_and_says_what_it_is_about(page):
    assert re.findall(r'<h3><a href="(\w+)/index.html">\w+</a>: ([^<]+)</h3>', page) == [
        ("one", "small_cnn on digits and mnist at density 0.1"),
        ("two", "small_cnn on digits at density 0.1"),
    ]
    assert page.count("Best sparse top-1") == 3  # of two data sets and of one


def test_a_method_has_its_paper_parameters_parts_and_places(page):
    rigl = section(page, "method-rigl")
    for text in (
        "arXiv 1911.11134",
        "alpha = 0.3, delta_t = 100, stop = 0.75",
        "93.67 [90.80, 96.54]",
        "90.00",
    ):
        assert text in rigl
    assert 'href="https://arxiv.org/abs/1911.11134"' in page
    assert '<a href="#grow-gradient">gradient</a>' in page


def test_a_part_says_its_formula(page):
    gradient = section(page, "grow-gradient")
    assert "|g|" in gradient
    assert "largest" in gradient


def test_what_is_not_installed_is_a_method_without_a_recipe(page):
    assert "a stranger" in section(page, slug("method", "a stranger"))


def test_the_page_needs_no_script_and_no_network(page):
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r'src="http', page)


def test_every_link_within_the_page_has_a_target(page):
    targets = set(re.findall(r' id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links
    assert links <= targets  # the stranger's init, which isn't installed, is no link


def test_boards_beside_their_results_link_to_the_index_and_others_do_not(tmp_path, records, put):
    results = put(tmp_path / "one" / "results", records)
    for out, links in ((tmp_path / "one", True), (tmp_path / "elsewhere", False)):
        write_leaderboards(results, out)
        assert ('<a href="../index.html"' in (out / "index.html").read_text("utf-8")) is links
    index = write_index(tmp_path, registry()).read_text("utf-8")
    assert 'href="one/index.html"' in index


def test_a_folder_without_boards_is_refused(tmp_path):
    with pytest.raises(BadInput, match="folder of boards"):
        write_index(tmp_path, registry())


def test_the_committed_index_is_what_this_code_makes(tmp_path):
    """Where it isn't: ``dstbench index leaderboards`` (docstrings of strategies stand in it, too)."""
    for board in ROOT.glob("*/results"):
        copytree(board, tmp_path / board.parent.name / "results")
    assert write_index(tmp_path, registry()).read_bytes() == (ROOT / "index.html").read_bytes()
