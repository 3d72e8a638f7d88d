"""What an optimizer does to masked weights: seen on a copy of it that steps tiny weights, whatever its class."""

from __future__ import annotations

import copy
import inspect
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dstbench.errors import in_a_line

_RATE = 0.1  # of the copies whose movements are compared: the real one may be warming up from zero
_COSINES = (
    0,
    0.2,
    0.05,
    None,
)  # some optimizers project where rows of weight and gradient are nearly orthogonal
_SLOW, _LONGEST = 0.1, 20.0  # seconds on the processor: of one step, and of all
_WIDEST = 128  # entries along a dimension of a tiny weight; optimizers treat smaller tensors in other ways


@dataclass(frozen=True)
class Conduct:
    """How an optimizer treats the parameters of one group."""

    neutral: Mapping[str, float] = field(
        default_factory=dict
    )  # of a new weight's state, where that isn't zero
    still: bool = (
        True  # zero weights with zero gradients and neutral state stay exactly zero, whatever came before
    )
    condensed: bool = True  # active weights alone are stepped as among zeros, in any shape
    compact: bool = True  # a slice is stepped as within the whole
    movable: bool = True  # all state is one value for each entry, or one for all
    unknown: tuple[
        str, ...
    ] = ()  # state whose value for a new weight can't be told: integers, subclasses of Tensor
    failure: str = ""  # why it couldn't be tried

    def __and__(self, other: Conduct) -> Conduct:
        """What holds of parameters of both kinds."""
        return Conduct(
            {**self.neutral, **other.neutral},
            self.still and other.still,
            self.condensed and other.condensed,
            self.compact and other.compact,
            self.movable and other.movable,
            (*self.unknown, *other.unknown),
            self.failure or other.failure,
        )


def conduct(optimizer: Optimizer, group: dict[str, Any]) -> Conduct:
    """Try each number of dimensions among a group's parameters. Changes nothing, and draws no global randomness."""
    largest: dict[int, Tensor] = {}
    for parameter in sorted(group["params"], key=torch.Tensor.numel):
        if parameter.ndim and parameter.is_floating_point():
            largest[parameter.ndim] = parameter
    conduct, devices = Conduct(), {p.device for p in largest.values() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad(), _uncompiled():
        for parameter in largest.values():
            conduct &= _tried(optimizer, group, parameter)
            if conduct.failure:
                break
    return conduct


def _uncompiled() -> AbstractContextManager[Any]:
    """Not worth compiling for."""
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


class _TooSlow(Exception):
    """A step takes too long to be tried."""


class _Patience:
    """Time on the processor, of this process alone, that steps may still take, in seconds."""

    def __init__(self, left: float) -> None:
        self.left = left

    def spend(self, step: Callable[[], Any], shape: torch.Size) -> None:
        """Take a step of a weight. Raises _TooSlow where no time is left."""
        start = time.process_time()
        step()
        took = time.process_time() - start
        self.left -= took
        if self.left < 0:
            raise _TooSlow(_too_long(shape, took))


def _too_long(shape: torch.Size, took: float) -> str:
    return f"a step of a weight of {tuple(shape)} takes {took:.2g} s, too long to be tried"


def _tried(optimizer: Optimizer, group: dict[str, Any], like: Tensor) -> Conduct:
    """The conduct towards weights like this one; where no copy can be made to step, the worst is assumed."""
    reasons = []
    for make in (
        _copied,
        _made,
    ):  # a copy knows settings that aren't in the groups; state may be made with it
        try:
            patience = _Patience(_LONGEST)
            twin = partial(_Twin, make, optimizer, group, patience)
            _approach(twin, like, patience)
            return _observed(twin, like)
        except _TooSlow as error:
            reasons = [str(error)]
            break
        except Exception as error:  # anyone's optimizer may raise anything
            reasons.append(in_a_line(error))
    return Conduct(still=False, condensed=False, compact=False, movable=False, failure=reasons[0])


class _Twin:
    """A fresh optimizer of one tiny parameter, with another's class and settings."""

    def __init__(
        self,
        make: Callable[..., Optimizer],
        optimizer: Optimizer,
        group: dict[str, Any],
        patience: _Patience,
        weight: Tensor,
        rate: float,
    ) -> None:
        self._patience = patience
        self.parameter = nn.Parameter(weight.clone())
        self._optimizer = make(optimizer, group, self.parameter)
        if rate and isinstance(self._optimizer.param_groups[0].get("lr"), float | int | Tensor):
            self._optimizer.param_groups[0]["lr"] = rate
        self._given = {key: copy.deepcopy(value) for key, value in self.state.items()}
        step: Any = type(optimizer).step
        while getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
            step = step.__wrapped__  # torch's calls of global hooks: they are for real optimizers
        self._step = step

    @property
    def state(self) -> dict[str, Any]:
        """What it remembers of the parameter."""
        held: dict[str, Any] = self._optimizer.state.get(self.parameter, {})
        return held

    @property
    def first(self) -> dict[str, Any]:
        """What each piece of state was set to first."""
        return {**getattr(self.state, "first", {}), **self._given}

    def step(self, gradient: Tensor) -> None:
        """One step, for optimizers with and without a closure."""

        def closure() -> Tensor:
            self.parameter.grad = gradient.clone()
            return gradient.new_zeros(())

        closure()
        self._patience.spend(lambda: self._step(self._optimizer, closure), self.parameter.shape)

    def keep(self, survivors: Tensor, neutral: Mapping[str, float]) -> None:
        """Start anew where ``survivors``, bool [*w], are not."""
        self.parameter.masked_fill_(~survivors, 0)
        for key in entrywise(self.state, self.parameter):
            self.state[key].masked_fill_(~survivors, neutral.get(key, 0))


class _FirstWrites(dict[str, Any]):
    """State that remembers what each tensor in it was first."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, Tensor] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.first.setdefault(key, value.detach().clone())
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As a dictionary's."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As a dictionary's."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value


def _copied(optimizer: Optimizer, group: dict[str, Any], parameter: nn.Parameter) -> Optimizer:
    """A copy in which ``parameter`` stands wherever the optimizer holds one, without hooks and state."""
    kind, held = type(optimizer), vars(optimizer)
    twin: Optimizer = object.__new__(kind)
    memo: dict[int, Any] = {id(optimizer): twin, id(optimizer.state): defaultdict(_FirstWrites)}
    for settings in optimizer.param_groups:
        memo |= {id(real): parameter for real in settings["params"]}
        memo[id(settings["params"])] = [parameter] if settings is group else []
    memo |= {id(value): OrderedDict() for name, value in held.items() if name.endswith("_hooks")}
    # what stands before a method, such as a scheduler's ``step``, belongs to the real one
    own = {name: value for name, value in held.items() if not callable(getattr(kind, name, None))}
    twin.__dict__.update(copy.deepcopy(own, memo))
    twin.param_groups = [group for group in twin.param_groups if group["params"]]
    return twin


def _made(optimizer: Optimizer, group: dict[str, Any], parameter: nn.Parameter) -> Optimizer:
    """A new one of the same class, with all settings that its constructor takes."""
    accepted = inspect.signature(type(optimizer).__init__).parameters
    settings = {**optimizer.defaults, **group}
    kept = {key: value for key, value in settings.items() if key in accepted and key != "params"}
    return type(optimizer)([parameter], **copy.deepcopy(kept))


def _approach(make: Callable[[Tensor, float], _Twin], like: Tensor, patience: _Patience) -> None:
    """Step ever larger weights, so that none takes long: what a step costs may grow with any power of the size."""
    for widest in (8, 8, 16, 32, 64):  # the first loads and compiles what it needs
        twin = make(torch.full(_shape(like, widest), 0.1).to(like), 0)
        took = min(_took(twin, patience), _took(twin, patience))  # once may be for something else
        if widest > 8 and took > _SLOW:
            raise _TooSlow(_too_long(twin.parameter.shape, took))


def _took(twin: _Twin, patience: _Patience) -> float:
    """What a step takes, without any loss of patience."""
    before = patience.left
    twin.step(torch.ones_like(twin.parameter))
    took, patience.left = before - patience.left, before
    return took


def _shape(like: Tensor, widest: int = _WIDEST) -> list[int]:
    """Of a tiny weight with as many dimensions."""
    return [min(max(d, 8), widest) if i < 2 else min(d, widest) for i, d in enumerate(like.shape)]


def _observed(make: Callable[[Tensor, float], _Twin], like: Tensor) -> Conduct:
    """Step tiny weights, in part masked, and slices of them."""
    draw = torch.Generator().manual_seed(0)
    shape = _shape(like)
    rows, columns = shape[0], torch.Size(shape).numel() // shape[0]

    def drawn() -> Tensor:
        return torch.randn(shape, generator=draw).to(like)

    active = torch.rand(rows, columns, generator=draw).argsort(1) < -(-columns // 2)
    active[rows // 2 :] = False
    active = active.view(shape).to(like.device)
    weight, gradients = drawn(), [drawn() for _ in range(4)]

    learner = make(weight * active, 0)
    for gradient in gradients[:2]:
        learner.step(gradient * active)
    before = {key: learner.state[key].clone() for key in entrywise(learner.state, learner.parameter)}
    learner.step(gradients[2] * active)
    neutral, unknown = _neutral(learner, before, ~active)
    if unknown:
        return Conduct(neutral, still=False, unknown=unknown)

    dropping, later = make(weight * active, _RATE), active & (drawn() > 0)
    for gradient in gradients[:2]:
        dropping.step(gradient * active)
    dropping.keep(later, neutral)
    for gradient in gradients[2:]:
        dropping.step(gradient * later)
    still = not bool((dropping.parameter[~later] != 0).any())
    movable = all(_single(v) or v.shape == learner.parameter.shape for v in _tensors(learner.state))

    turned = [-(-columns // 2), rows // 2]  # the entries of several rows in one
    return Conduct(
        neutral,
        still,
        condensed=len(shape) == 1 or _same(make, weight * active, gradients, active, turned),
        compact=all(_same(make, *cut) for cut in _cuts(weight, gradients)),
        movable=movable,
    )


def _cuts(
    weight: Tensor, gradients: list[Tensor]
) -> Iterator[tuple[Tensor, list[Tensor], Tensor, list[int]]]:
    """Slices as removed channels leave them, as ``_same`` takes them: half of the rows, and few of the columns."""
    shape = list(weight.shape)
    if len(shape) == 1:  # what follows removed rows needn't be zero
        yield (
            weight,
            gradients,
            torch.arange(len(weight), device=weight.device) < shape[0] // 2,
            [shape[0] // 2],
        )
        return
    for dim, left in ((0, shape[0] // 2), (1, shape[1] // 8)):
        alive = torch.zeros_like(weight, dtype=torch.bool)
        alive.narrow(dim, 0, left).fill_(True)
        yield weight * alive, gradients, alive, [left if d == dim else size for d, size in enumerate(shape)]


def _same(
    make: Callable[[Tensor, float], _Twin],
    weight: Tensor,
    gradients: list[Tensor],
    kept: Tensor,
    shape: list[int],
) -> bool:
    """Whether the entries ``kept``, bool [*w], are stepped alike among the others and alone, in ``shape``."""
    support, scale = weight != 0, torch.finfo(weight.dtype).eps * 64
    try:
        whole, part = make(weight, _RATE), make(weight[kept].view(shape), _RATE)
        for gradient, cosine in zip(gradients, _COSINES, strict=True):
            given = _turned(gradient * support, whole.parameter, cosine)
            whole.step(given)
            part.step(given[kept].view(shape))
    except Exception:  # it can't step such a slice at all
        return False
    expected, got = whole.parameter[kept], part.parameter.flatten()
    return bool(((expected - got).abs() <= scale * expected.abs().max()).all())


def _turned(gradient: Tensor, weight: Tensor, cosine: float | None) -> Tensor:
    """A gradient whose rows have this cosine, times the root of their length, with the weight's; None: as it is."""
    if cosine is None or weight.ndim == 1:
        return gradient
    rows, held = gradient.flatten(1), nn.functional.normalize(weight.flatten(1), dim=1)
    across = rows - (rows * held).sum(1, keepdim=True) * held
    along = cosine / held.shape[1] ** 0.5 * across.norm(dim=1, keepdim=True) * held
    turned: Tensor = across + along
    return turned.view_as(gradient)


def _neutral(
    twin: _Twin, before: Mapping[str, Tensor], never: Tensor
) -> tuple[dict[str, float], tuple[str, ...]]:
    """What state holds of entries that ``never``, bool [*w], had a weight or gradient, and what can't be told.

    An integer is a code, whose meaning may follow a scale: it must have stayed the same; a number is what it was
    first, before any decay.
    """
    first = twin.first
    neutral: dict[str, float] = {}
    for key, value in twin.state.items():
        if not isinstance(value, Tensor) or (_single(value) and type(value) is Tensor):
            continue
        coded = not (value.is_floating_point() or value.is_complex())
        if type(value) not in (Tensor, nn.Parameter) or (coded and value.shape != never.shape):
            return neutral, (key,)
        if value.shape != never.shape:
            continue
        start = before.get(key) if coded else first.get(key, value)
        if start is None or start.shape != value.shape:
            start = value
        entries = start[never]
        same = bool((entries == entries[0]).all())
        if coded and not (same and torch.equal(entries, value[never])):
            return neutral, (key,)
        if same and float(entries[0]):
            neutral[key] = entries[0].item()
    return neutral, ()


def entrywise(state: Mapping[str, Any], values: Tensor) -> list[str]:
    """The names of the state tensors that have an entry for each of the values."""
    return [key for key, held in state.items() if isinstance(held, Tensor) and held.shape == values.shape]


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    """All tensors in a state, in its lists too."""
    values = [part for v in state.values() for part in (v if isinstance(v, list | tuple) else [v])]
    return [value for value in values if isinstance(value, Tensor)]


def _single(value: Tensor) -> bool:
    return value.numel() <= 1
