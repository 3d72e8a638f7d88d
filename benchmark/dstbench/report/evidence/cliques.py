"""Sets of which no two are told apart: what a bar of a critical-difference diagram stands for."""

from __future__ import annotations

from collections.abc import Collection, Iterator


def maximal_sets(n: int, apart: Collection[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The largest sets of 0 … n − 1 of which no two are ``apart``, pairs as (lower, higher): every two that aren't
    apart are together in one. In order (Bron and Kerbosch 1973)."""
    near = {i: {j for j in range(n) if j != i and (min(i, j), max(i, j)) not in apart} for i in range(n)}

    def extended(chosen: frozenset[int], open_: set[int], done: set[int]) -> Iterator[frozenset[int]]:
        if not open_ and not done:
            yield chosen
            return
        pivot = max(sorted(open_ | done), key=lambda i: len(near[i] & open_))
        for i in sorted(open_ - near[pivot]):
            yield from extended(chosen | {i}, open_ & near[i], done & near[i])
            open_, done = open_ - {i}, done | {i}

    return (
        sorted(tuple(sorted(clique)) for clique in extended(frozenset(), set(range(n)), set())) if n else []
    )
