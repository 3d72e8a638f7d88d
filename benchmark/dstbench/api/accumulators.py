"""What builds up over steps and scores may read: one tensor a layer, owned by the engine, changed by one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor

from dstbench.api.abilities import declared, method
from dstbench.api.strategies import LayerInfo, LayerView
from dstbench.errors import BadInput, StrategyError
from dstbench.recipe import Clock, Signal

Reset = Literal["never", "update", "grown"]

SEEN = "seen"
"""In ``extra`` of the layer that ``fold`` is given: the sum of ``entry``."""


@runtime_checkable
class Accumulator(Protocol):
    """A tensor of each layer into which every applied step is folded, for scores that ask for it by name: in
    ``layer.extra``. A frozen dataclass without state of its own: the engine keeps the totals, in checkpoints, too.

    Optional, with what holds without:

    - ``needs`` (Signal.NONE): what ``fold`` reads of the layer. Gradients are averaged over ranks first, so that a
      square is that of the mean. Signal.GRAD costs a dense backward at each step that folds; ACTIVE_GRAD is free.
    - ``dtype`` (the weight's) and ``initial`` (0.0): of the totals.
    - ``reset`` ("never"): "update", the totals are initial again behind every topology update; "grown", where a
      weight was just activated.
    - ``window`` (0, all steps): fold only the last so many steps before each topology update, this one's included.
    - ``entry(values) -> Tensor`` with Signal.INPUTS or Signal.OUTPUT_GRADIENTS: the function of each entry of a
      layer's inputs, or of its output's gradients, whose sum over samples, places and ranks ``fold`` finds in
      ``layer.extra["seen"]``, float32: of inputs one number for each column of the layer's matrix [out, in · taps],
      shaped [1, in, *kernel] ([out, in / groups, *kernel] with groups), of gradients one for each row, [out, 1, …].
    - ``signed`` (False): each summand has a random sign, one for each sample and place, the same for inputs and
      gradients.
    - ``pairs`` (False): of an init's inputs of linear layers: products of pairs of columns are summed, see
      ``products``: [out, in], of the dtype that ``entry`` returns.
    """

    def fold(self, total: Tensor, layer: LayerView, clock: Clock) -> Tensor:
        """Return the new total: a tensor of its own, of the dtype declared, shaped [*w] or so that it expands to it.

        total: [*w], or [1, …] before the first fold of an accumulator with ``entry``. layer: weights and masks as
        they were in the forward pass. clock: the step that is being applied.
        """
        ...


def of_all(layer: LayerInfo) -> bool:
    """Any layer."""
    return True


@dataclass(frozen=True)
class Folding:
    """An accumulator with what it declares, checked."""

    accumulator: Accumulator
    needs: Signal
    dtype: torch.dtype | None  # None: the weight's
    initial: float
    reset: Reset
    window: int  # 0: all steps
    entry: Callable[[Tensor], Tensor] | None
    signed: bool
    pairs: bool
    fits: Callable[[LayerInfo], bool]  # the layers of which anyone reads it

    @classmethod
    def of(cls, accumulator: Any, name: str, fits: Callable[[LayerInfo], bool] = of_all) -> Folding:
        """What an accumulator declares. Raises BadInput, with its name, for what isn't of its type."""
        what = f"accumulator {name!r}"
        if not isinstance(accumulator, Accumulator):
            raise BadInput(
                f"{what}: expected an Accumulator, which has fold(total, layer, clock), got {accumulator!r}"
            )
        needs, initial = declared(accumulator, "needs", Signal.NONE), declared(accumulator, "initial", 0.0)
        reset, window = declared(accumulator, "reset", "never"), declared(accumulator, "window", 0)
        dtype = declared(accumulator, "dtype", torch.float32) if _has_dtype(accumulator) else None
        if reset not in get_args(Reset):
            raise BadInput(f"{what}: reset: expected one of {', '.join(get_args(Reset))}, got {reset!r}")
        if isinstance(window, bool) or window < 0:
            raise BadInput(f"{what}: window: expected a number of steps, 0 for all, got {window!r}")
        if needs & (Signal.MOMENTUM | Signal.HESSIAN):
            raise BadInput(
                f"{what}: needs: {needs} can't be folded; gradients, inputs and their gradients can"
            )
        sides = needs & _SIDES
        entry = method(accumulator, "entry")
        if sides == _SIDES:
            raise BadInput(
                f"{what}: needs: inputs or gradients of outputs, which have other shapes, got both"
            )
        if bool(sides) != (entry is not None):
            raise BadInput(f"{what}: entry and a need of {_SIDES} go together, got {needs} and {entry!r}")
        signed = declared(accumulator, "signed", False)
        pairs = declared(accumulator, "pairs", False)
        if pairs and (signed or Signal.INPUTS not in needs):
            raise BadInput(
                f"{what}: pairs: those of inputs, without signs, got needs {needs} and signed={signed}"
            )
        return cls(accumulator, needs, dtype, initial, cast(Reset, reset), window, entry, signed, pairs, fits)

    def start(self, layer: LayerView) -> Tensor:
        """The total before the first fold, on the weight's device."""
        weight = layer.weight
        shape = [1] * weight.dim() if self.entry else list(weight.shape)
        return torch.full(shape, self.initial, dtype=self.dtype or weight.dtype, device=weight.device)

    def fold(self, total: Tensor, layer: LayerView, clock: Clock, name: str) -> Tensor:
        """The new total, checked. Raises StrategyError that names accumulator, layer and defect."""
        where = f"accumulator {name!r}, layer {layer.name!r}"
        with torch.no_grad():
            made = self.accumulator.fold(total, layer, clock)
        if not isinstance(made, Tensor):
            raise StrategyError(f"{where}: a total must be a tensor, got {type(made).__name__}")
        expected, wanted = self.dtype or layer.weight.dtype, list(layer.shape)
        if made.dtype != expected or made.device != layer.weight.device:
            raise StrategyError(
                f"{where}: expected {expected} on {layer.weight.device}, got {made.dtype} on {made.device}"
            )
        fits = made.dim() == len(wanted) and all(a in (1, b) for a, b in zip(made.shape, wanted, strict=True))
        if not fits:
            raise StrategyError(f"{where}: expected {wanted}, or what expands to it, got {list(made.shape)}")
        return made


_SIDES = Signal.INPUTS | Signal.OUTPUT_GRADIENTS


def products(values: Tensor, rows: int) -> Tensor:
    """Σ x[r mod columns] · x[c] over samples, at row r and column c: [rows, columns] of [samples, columns]."""
    columns = values.shape[1]
    once = values[:, :rows].T @ values
    return once[torch.arange(rows, device=values.device) % columns]


def _has_dtype(accumulator: Any) -> bool:
    """Whether it names a dtype; None is the weight's."""
    return "dtype" in dir(accumulator) and accumulator.dtype is not None
