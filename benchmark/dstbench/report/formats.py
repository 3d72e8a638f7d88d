"""Boards in the formats of others: one board as text, or as a Parquet file. ``leaderboard --format`` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dstbench.errors import BadInput, nearest
from dstbench.report.boards import BOARDS, Board
from dstbench.report.latex import to_latex
from dstbench.report.page import boards_of
from dstbench.report.text import by_its_metric, to_csv, to_json, to_markdown
from dstbench.results.files import make_folder, write_all
from dstbench.results.table import LoadedResults, frame

if TYPE_CHECKING:
    import pandas as pd

    from dstbench.report.published.beside import Beside


@dataclass(frozen=True)
class Content:
    """One board to be written, published rows within it, and what it was made of."""

    board: Board
    table: pd.DataFrame
    beside: Beside
    loaded: LoadedResults


TEXTS: Mapping[str, tuple[str, Callable[[Content], str]]] = {  # name -> file's ending, and what writes it
    "csv": ("csv", lambda what: to_csv(by_its_metric(what.table))),
    "markdown": ("md", lambda what: to_markdown(what.table, what.board, what.beside)),
    "json": ("json", lambda what: to_json(by_its_metric(what.table)) + "\n"),
    "latex": ("tex", lambda what: to_latex(frame(what.loaded.records, what.loaded.tiers), what.board)),
}
PARQUET = "parquet"
FORMATS = (*TEXTS, PARQUET)


def board_text(loaded: LoadedResults, name: str, format: str) -> str:
    """One board in a text format. Raises BadInput for an unknown board or format, and for one that is no text."""
    _check(format)
    if format == PARQUET:
        raise BadInput("--format: parquet is no text: say --out where its files go")
    boards = {board.name: board for board in BOARDS}
    if name not in boards:
        raise BadInput(f"--board: expected a leaderboard's name, got {name!r}{nearest(name, boards)}")
    return TEXTS[format][1](_contents(loaded)[name])


def write_boards(loaded: LoadedResults, out: Path, format: str) -> tuple[Path, ...]:
    """Every board in one format, ``<board>.<ending>`` in ``out``; of Parquet also ``trials``, a row a trial."""
    _check(format)
    contents = _contents(loaded)
    if format == PARQUET:
        return _write_parquet({name: what.table for name, what in contents.items()}, loaded, out)
    ending, write = TEXTS[format]
    texts = {f"{name}.{ending}": write(what) for name, what in contents.items()}
    write_all(out, texts)
    return tuple(out / name for name in texts)


def _contents(loaded: LoadedResults) -> dict[str, Content]:
    boards = boards_of(loaded)
    tables, beside = boards.tables, boards.beside
    return {
        board.name: Content(board, beside.within(board.name, tables[board.name]), beside, loaded)
        for board in BOARDS
    }


def _write_parquet(tables: Mapping[str, pd.DataFrame], loaded: LoadedResults, out: Path) -> tuple[Path, ...]:
    make_folder(out)
    trials = frame(loaded.records, loaded.tiers).reset_index()
    files = []
    for name, table in {
        **{name: by_its_metric(table) for name, table in tables.items()},
        "trials": trials,
    }.items():
        files.append(out / f"{name}.parquet")
        fresh = files[-1].with_name(f".{name}.parquet.new")
        plain = {
            key: values if values.dtype == "float64" else values.map(_plain, na_action="ignore")
            for key, values in table.items()
        }
        table.assign(**{str(key): values for key, values in plain.items()}).to_parquet(fresh, index=False)
        fresh.replace(files[-1])
    return tuple(files)


def _plain(value: object) -> object:
    """One type a column is all that Parquet takes: what isn't plain, as text."""
    return value if isinstance(value, str | int | float | bool) else str(value)


def _check(format: str) -> None:
    if format not in FORMATS:
        raise BadInput(f"--format: unknown {format!r}{nearest(format, FORMATS)}")
    if format == PARQUET and find_spec("pyarrow") is None:
        raise BadInput("--format: 'parquet' needs pyarrow: pip install 'dstbench[parquet]'")
