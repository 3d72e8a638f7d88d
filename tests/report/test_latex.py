"""Boards for papers: LaTeX, Parquet, BibTeX."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.report.boards import BOARDS
from dstbench.report.citations import bibliography
from dstbench.report.formats import write_boards
from dstbench.report.latex import escaped, to_latex
from dstbench.results.table import load_results, read

ACCURACY, FLOPS, _ = BOARDS


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def three_methods(make, **changes):
    """By seed: rigl 93, 95, 97; set half a point below it, nearly equally; dsr far below."""
    for seed, top1 in enumerate((93.0, 95.0, 97.0)):
        yield make("rigl", seed, top1, **changes)
        yield make("set", seed, top1 - (0.4, 0.5, 0.7)[seed], **changes)
        yield make("uniform · channel · mest · random", seed, top1 - (4.0, 9.0, 0.1)[seed], **changes)


def bold(text):
    return [line.split(" & ")[0] for line in text.splitlines() if r"\textbf" in line]


def test_bold_is_what_the_best_is_not_told_from(tmp_path, make, put):
    """rigl - set: 0.4, 0.5, 0.7, t = 6.05, p = 0.026; rigl - channel: 4, 9, 0.1, t = 1.7, p = 0.23. Holm: 0.053."""
    text = to_latex(load_results(put(tmp_path, three_methods(make))), ACCURACY)
    assert bold(text) == ["rigl", "set", r"uniform $\cdot$ channel $\cdot$ mest $\cdot$ random"]
    records = [r for r in three_methods(make) if "channel" not in r["label"]]
    text = to_latex(load_results(put(tmp_path / "two", records)), ACCURACY)
    assert bold(text) == ["rigl"]  # one comparison: p = 0.026
    assert r"& $3$ & $0.101$ & \textbf{\boldmath $95.00 \pm 4.97$} &" in text


def test_nothing_is_bold_without_seeds(tmp_path, make, put):
    text = to_latex(load_results(put(tmp_path, [make(), make("set", 0, 10.0)])), ACCURACY)
    assert bold(text) == []
    assert "Nothing is bold: with fewer than 3 seeds" in text


def test_the_least_flops_are_bold(results):
    text = to_latex(load_results(results), FLOPS)
    assert set(bold(text)) == {"set"}


def test_settings_that_all_share_are_said_once(results):
    text = to_latex(load_results(results), ACCURACY)
    assert text.count("epochs=12") == text.count(r"\multicolumn{7}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a_b & 5 % #1 $x$ ~ ^", r"a\_b \& 5 \% \#1 \$x\$ \textasciitilde{} \textasciicircum{}"),
        ("small-dense", "small-dense"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("é 中 \n\x07", r"é \texttt{U+4E2D}  \texttt{U+0007}"),
        ('"quoted"', r"{\char34}quoted{\char34}"),
    ],
)
def test_texts_of_others_are_no_commands(text, shown):
    assert escaped(text) == shown


def test_hostile_records_leave_no_command(tmp_path, make, put):
    harm = r"\write18{rm -rf ~}%$^^5c"
    record = make(trial={"model": {"name": harm}}) | {"label": harm}
    text = to_latex(load_results(put(tmp_path, [record])), ACCURACY)
    assert r"\write" not in text
    assert "^^5c" not in text
    assert r"\textbackslash{}write18" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_it_compiles(tmp_path, make, put):
    harm = "a\\b{c}$d&e#f%g_h~i^j<k>l|m\"n`o'p·q×r–s−t±u中v--w"
    results = put(tmp_path / "results", [*three_methods(make), make(density=0.2) | {"label": harm}])
    boards = "\n".join(to_latex(load_results(results), board) for board in BOARDS)
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "boards.tex").write_text(f"{head}\n{boards}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "boards.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("format", ["csv", "markdown", "json", "latex"])
def test_a_board_is_printed_in_a_format_or_all_are_written(results, tmp_path, format):
    printed = call("leaderboard", results, "--format", format, "--board", "flops")
    assert printed.exit_code == 0
    files = write_boards(read(results), tmp_path, format)
    assert [file.stem for file in files] == ["accuracy", "flops", "throughput"]
    assert files[1].read_text() == printed.stdout
    if format == "json":
        assert {"rigl", "set"} <= {row["name"] for row in json.loads(printed.stdout)}


def test_parquet_holds_the_boards_and_the_trials(results, tmp_path):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    files = write_boards(read(results), tmp_path, "parquet")
    assert [file.name for file in files][-1] == "trials.parquet"
    trials = pandas.read_parquet(tmp_path / "trials.parquet")
    assert len(trials) == 36
    assert sorted(trials["top1"].dropna()) == sorted(load_results(results)["top1"].dropna())


def test_a_format_that_is_none(results):
    done = call("leaderboard", results, "--format", "latx")
    assert done.exit_code == 2
    assert "did you mean 'latex'" in done.stderr
    assert call("leaderboard", results, "--format", "parquet").exit_code == 2


def keys(text):
    return re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)


def test_a_recipe_is_cited_with_its_parts():
    assert keys(bibliography(["rigl-5x"], registry())) == ["evci2020rigl", "dstbench"]
    assert keys(bibliography(["set-author"], registry())) == ["mocanu2018set", "dstbench"]
    assert keys(bibliography(["snfs", "dsr"], registry())) == [
        "dettmers2019snfs", "evci2020rigl", "mostafa2019dsr", "dstbench",
    ]  # fmt: skip
    assert keys(bibliography([], registry())) == ["dstbench"]
    with pytest.raises(BadInput, match="did you mean 'rigl'"):
        bibliography(["rigll"], registry())


def test_every_paper_that_a_built_in_names_can_be_cited():
    """A component whose docstring names a paper cites that paper, and every published recipe cites one."""
    for kind in ("recipe", "init", "structure", "prune", "grow", "share", "schedule"):
        for name, component in registry()[kind].items():
            numbers = re.findall(r"arXiv (\d{4}\.\d{5})", component.load().__doc__ or "")
            if numbers and component.distribution == "dstbench":
                text = bibliography([name], registry())
                assert any(f"eprint = {{{number}}}" in text for number in numbers), name
    for name in registry()["recipe"]:
        if registry()["recipe"][name].metadata.get("control") is None:
            assert len(keys(bibliography([name], registry()))) > 1, name


def test_results_are_cited_by_what_they_name(results):
    assert "evci2020rigl" in keys(call("cite", "--results", results).stdout)
