"""The linear model of a factorial experiment: main effects and two-way interactions in sum-to-zero coding.

Three choices and more at once are left to the residual: what the model doesn't say is reported as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from dstbench.report.evidence.experiment import Cell, Factor

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """A main effect (one factor) or an interaction (two)."""

    factors: tuple[Factor, ...]

    @property
    def name(self) -> str:
        """``prune`` or ``prune × grow``."""
        return " × ".join(factor.kind for factor in self.factors)

    @cached_property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """Its combinations of levels, the last factor's running fastest."""
        return tuple(
            reduce(lambda cells, f: [(*c, level) for c in cells for level in f.levels], self.factors, [()])
        )

    @cached_property
    def coding(self) -> Array:
        """Sum-to-zero coding, (cells, degrees of freedom): times the coefficients, the effect of each cell."""
        whole: Array = np.ones((1, 1))
        for n in (len(factor.levels) for factor in self.factors):
            whole = np.asarray(np.kron(whole, np.vstack([np.eye(n - 1), -np.ones(n - 1)])), dtype=np.float64)
        return whole

    @property
    def freedom(self) -> int:
        """Its degrees of freedom."""
        return int(np.prod([len(factor.levels) - 1 for factor in self.factors]))

    @property
    def distinct(self) -> int:
        """Effects that differ in more than their sign: the two of a choice between two levels are one."""
        return int(np.prod([len(factor.levels) if len(factor.levels) > 2 else 1 for factor in self.factors]))

    def columns(self, factors: Sequence[Factor], cells: Sequence[Cell]) -> Array:
        """Its part of the design matrix for trials in these cells: (trials, degrees of freedom)."""
        places = [list(factors).index(factor) for factor in self.factors]
        rows = {cell: row for row, cell in enumerate(self.cells)}
        return self.coding[[rows[tuple(cell[place] for place in places)] for cell in cells]]


def estimable(factors: Sequence[Factor], cells: Sequence[Cell]) -> tuple[list[Term], list[Term]]:
    """Main effects and two-way interactions that data in these cells can tell apart, and those they can't.

    An interaction needs a trial for every pair of its levels. Where the others still can't be told apart, no
    interaction is estimated; where main effects can't, nothing is: ([], all).
    """
    mains = [Term((factor,)) for factor in factors]
    pairs = [Term(pair) for pair in combinations(factors, 2)]
    whole = [pair for pair in pairs if set(pair.cells) <= _seen(pair, factors, cells)]
    for terms in ([*mains, *whole], mains):
        if is_full_rank(terms, factors, cells):
            return terms, [term for term in (*mains, *pairs) if term not in terms]
    return [], [*mains, *pairs]


def _seen(term: Term, factors: Sequence[Factor], cells: Sequence[Cell]) -> set[tuple[str, ...]]:
    places = [list(factors).index(factor) for factor in term.factors]
    return {tuple(cell[place] for place in places) for cell in cells}


def design(terms: Sequence[Term], factors: Sequence[Factor], cells: Sequence[Cell]) -> Array:
    """The terms' columns side by side, without a constant: (trials, degrees of freedom)."""
    return np.hstack([np.zeros((len(cells), 0)), *(term.columns(factors, cells) for term in terms)])


def is_full_rank(terms: Sequence[Term], factors: Sequence[Factor], cells: Sequence[Cell]) -> bool:
    """Whether data in these cells tell all terms, and the constant, apart."""
    columns = _with_constant(design(terms, factors, cells))
    return len(columns) >= columns.shape[1] and bool(np.linalg.matrix_rank(columns) == columns.shape[1])


def fitted(
    terms: Sequence[Term], factors: Sequence[Factor], values: dict[Cell, float]
) -> tuple[float, list[Array]]:
    """Least squares in one repetition: the mean of all combinations, and each term's effects, one a cell of it.

    Where every combination is there these are differences of plain means. ``values`` have to be ``is_full_rank``.
    """
    cells = list(values)
    columns = _with_constant(design(terms, factors, cells))
    solution = np.linalg.lstsq(columns, np.array([values[cell] for cell in cells]), rcond=None)[0]
    ends = np.cumsum([1, *(term.freedom for term in terms)])
    parts = [solution[start:end] for start, end in pairwise(ends)]
    return float(solution[0]), [term.coding @ part for term, part in zip(terms, parts, strict=True)]


def _with_constant(columns: Array) -> Array:
    return np.hstack([np.ones((len(columns), 1)), columns])


@dataclass(frozen=True)
class Variance:
    """One line of an analysis of variance; ``share`` of what varies within repetitions."""

    term: str
    squares: float
    freedom: int
    share: float
    f: float | None = None
    p: float | None = None


def analysis_of_variance(
    terms: Sequence[Term], factors: Sequence[Factor], data: Sequence[dict[Cell, float]]
) -> list[Variance]:
    """Type II sums of squares of each term, repetitions taken out first, and the residual last.

    Type II compares a term with the model of all terms that don't contain it: where data are missing it needs no
    combination to be there, doesn't depend on the coding, and asks for a main effect without the interactions that
    are made of it. Where all are there, types I to III are the same. F and p rest on the residual, so on trials
    that are independent and equally noisy, which those of one seed and those that collapse are not.
    """
    cells = [cell for values in data for cell in values]
    response = _within([np.array(list(values.values()))[:, None] for values in data])
    columns = {term: _within([term.columns(factors, list(values)) for values in data]) for term in terms}
    whole = _residual(response, list(columns.values()))
    total = float((response**2).sum())
    freedom = len(cells) - len(data) - sum(term.freedom for term in terms)
    lines = []
    for term in terms:
        others = [part for other, part in columns.items() if not set(term.factors) <= set(other.factors)]
        squares = _residual(response, others) - _residual(response, [*others, columns[term]])
        lines.append(_line(term.name, max(squares, 0.0), term.freedom, total, whole, freedom))
    return [*lines, Variance("residual", whole, freedom, whole / total if total else 0.0)]


def _line(name: str, squares: float, df: int, total: float, residual: float, freedom: int) -> Variance:
    from scipy.special import fdtrc

    share = squares / total if total else 0.0
    if freedom < 1 or residual <= 1e-12 * max(total, 1.0):
        return Variance(name, squares, df, share)
    f = squares / df / (residual / freedom)
    return Variance(name, squares, df, share, f, float(fdtrc(df, freedom, f)))


def _within(parts: Sequence[Array]) -> Array:
    """Stacked, each repetition's mean taken out: the same as a column for each of them."""
    return np.vstack([part - part.mean(axis=0) for part in parts])


def _residual(response: Array, columns: Sequence[Array]) -> float:
    """The sum of squares that columns leave."""
    if not columns:
        return float((response**2).sum())
    stacked = np.hstack(list(columns))
    return float(((response - stacked @ np.linalg.lstsq(stacked, response, rcond=None)[0]) ** 2).sum())
