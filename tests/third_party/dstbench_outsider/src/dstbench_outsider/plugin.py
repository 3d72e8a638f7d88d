"""What this package registers. Targets are strings: listing plugins imports no torch."""

from __future__ import annotations

from dstbench import hookimpl
from dstbench.hookspecs import Register


@hookimpl
def register_grow(register: Register) -> None:
    """A score and, under a name that a built-in has too, another."""
    register(
        "snr",
        "dstbench_outsider.strategies:SignalToNoise",
        summary="largest |gradient| against its momentum",
        version="2",
    )
    register("gradient", "dstbench_outsider.strategies:shrunk_gradient", summary="|gradient|, shrunk")
    register("peak", "dstbench_outsider.strategies:ByPeak", summary="largest |gradient| of any step so far")


@hookimpl
def register_accumulator(register: Register) -> None:
    """What the growth above reads."""
    register("peak", "dstbench_outsider.strategies:Peak", summary="largest |gradient| so far")


@hookimpl
def register_structure(register: Register) -> None:
    """A layout."""
    register(
        "ragged_n_of_m",
        "dstbench_outsider.strategies:RaggedNOfM",
        summary="at most n of m neighbouring inputs (2:4)",
    )


@hookimpl
def register_share(register: Register) -> None:
    """A share."""
    register(
        "square_root", "dstbench_outsider.strategies:SquareRoot", summary="by the root of the layer's size"
    )


@hookimpl
def register_schedule(register: Register) -> None:
    """A schedule."""
    register("linear", "dstbench_outsider.strategies:Linear", summary="drop fraction falls linearly to zero")


@hookimpl
def register_recipe(register: Register) -> None:
    """All of the above as one method, and the same with other parameters under a name of its own."""
    target = "dstbench_outsider.strategies:outsider"
    register("outsider", target, summary="every strategy of this package")
    register("outsider-often", target, parameters={"delta_t": 10}, summary="the same, ten times as often")
