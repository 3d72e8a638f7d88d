"""What a training costs: added up while it runs, or planned from a recipe's schedule without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from dstbench.api import Clock, Recipe, Signal, Target
from dstbench.core.cost.conventions import get_convention
from dstbench.core.cost.cost import flops, product_flops
from dstbench.core.cost.layers import LayerCost, workload
from dstbench.core.engine.allocation import bounds, by_shape, check_count, check_density
from dstbench.core.engine.budget import apportion
from dstbench.core.engine.structures import fitted
from dstbench.core.engine.update import initial_budget
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.ownership import budgeted_layers, patterns_of
from dstbench.core.training.calibration import passes_of, products_of
from dstbench.core.training.method import Method, as_recipe, build_method
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from dstbench.registration.registry import Registry

Allocation = Callable[[float], Mapping[str, float]]  # a density of the network -> that of each layer


class TrainingMeter:
    """Training FLOPs added up over the real mask trajectory, by any convention.

    A sample costs 3 f_S: forward, input gradient and weight gradient; on a step whose growth needs the dense
    gradient 2 f_S + f_D, and where a superset of what is active trains 2 f_S + f_B. FLOPs are linear in each layer's
    density, so its sum over passes is all that is kept, as exact integers.
    """

    def __init__(
        self,
        costs: Mapping[str, LayerCost],
        convention: str = "mac",
        products: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """products: operator -> multiply-accumulates of two activations for one sample: three times in training."""
        get_convention(convention)
        self.costs, self.convention, self.products = costs, convention, products
        self.samples = 0
        self._before = 0  # passes before training, of any sort
        self._dense_passes = 0  # weight gradients of all weights
        self._active = dict.fromkeys(costs, 0)  # active weights of each layer, summed over the other passes

    def add(
        self,
        active: Mapping[str, int],
        samples: int,
        dense_gradient: bool,
        trained: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """One applied step over ``samples`` images with these active weights a layer; one left out is dense.
        trained: the weights that get a gradient, of layers where these are others than the active ones."""
        self.samples += samples
        self._dense_passes += samples * dense_gradient
        for name, layer in self.costs.items():
            held = active.get(name, layer.weights)
            self._active[name] += samples * 2 * held
            if not dense_gradient:
                self._active[name] += samples * trained.get(name, held)

    def look(
        self,
        active: Mapping[str, int],
        samples: int,
        sparse: int,
        dense: int,
        products: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Passes before training, which dense training has none of: of ``samples`` samples ``sparse`` through these
        active weights a layer, and ``dense`` through all weights; beside them ``products`` of a layer's inputs."""
        self._before += samples * (sparse + dense)
        self._dense_passes += samples * dense
        for name, layer in self.costs.items():
            made = sparse * active.get(name, layer.weights) + products.get(name, 0)
            self._active[name] += samples * made

    def flops(self, convention: str) -> tuple[float, float]:
        """Training FLOPs so far, and those of dense training on the same samples."""
        rule = get_convention(convention)
        forward = sum(flops(self.costs, {}, convention).values())
        product = product_flops(self.products, rule)
        between, passes = 3 * self.samples * product, 3 * self.samples + self._before
        total = self._dense_passes * forward + passes * product
        for name, layer in self.costs.items():
            macs, outputs = layer.counts(rule)
            total += rule.per_mac * macs * self._active[name] / layer.weights
            total += rule.per_output * outputs * (passes - self._dense_passes)
        return total, 3 * self.samples * forward + between

    def ratio(self, convention: str | None = None) -> float:
        """Sparse over dense, by the meter's own convention or another."""
        sparse, dense = self.flops(convention or self.convention)
        return sparse / dense

    @property
    def sparse(self) -> float:
        """Training FLOPs so far."""
        return self.flops(self.convention)[0]

    @property
    def dense(self) -> float:
        """FLOPs of dense training on the same samples."""
        return self.flops(self.convention)[1]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, as plain numbers for a checkpoint."""
        sums = {"samples": self.samples, "dense_passes": self._dense_passes, "active": dict(self._active)}
        return sums | {"before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.samples, self._dense_passes = state["samples"], state["dense_passes"]
        self._active, self._before = dict(state["active"]), state.get("before", 0)


def training_cost(
    model: nn.Module,
    recipe: str | Recipe | Mapping[str, Any] = "rigl",
    density: float = 0.1,
    total_steps: int = 0,
    input_shape: Sequence[int] = (3, 32, 32),
    *,
    steps_per_epoch: int | None = None,
    dense_layers: Sequence[str] = (),
    allocation: Allocation | None = None,
    registry: Registry | None = None,
    example_input: Inputs | None = None,
) -> TrainingMeter:
    """Plan what a training will cost: a meter that has gone through every step of the recipe's schedule, one
    sample a step. It may live on ``torch.device("meta")``, unless the recipe's init ranks its weights.

    RigL for ResNet-50, by the convention of the published figures::

        training_cost(resnet50, "rigl", 0.1, 32_000, (3, 224, 224)).ratio("rigl-notebook")

    example_input: in place of a sample of ``input_shape``, as in ``cost``: a batch of one.
    allocation: the layers' densities at a density of the network, for methods that divide weights otherwise
    than the recipe's init; layers it leaves out are dense. Without it, each density is divided as the init
    does: exact for methods that keep every layer at its own, while redistribution, which depends on the data,
    is not foreseen. Budgets are taken as they are, not rounded to a structure's units. ``total_steps`` are the
    steps really made: the ratio is to dense training of that length, so a recipe's multiplier comes on top.
    Looks at batches before training are counted, those at ones, a sample each, are not.
    Raises BadInput for a bad density, an unknown recipe, one that trains a narrower model, and one whose init
    divides weights by gradients if there is no allocation.
    """
    check_count("total_steps", total_steps, "the number of optimizer steps of the training")
    recipe = as_recipe(recipe, registry)
    if recipe.narrow:
        raise BadInput("recipe: it trains a narrower model; ask for 'dense' with that model")
    method = build_method(recipe, registry)
    work = workload(model, input_shape, example_input=example_input)
    meter = TrainingMeter(work.costs, products=work.products)
    if method.dense:
        meter.add({}, total_steps, False)
        return meter
    division = _Division(model, method, dense_layers)
    if allocation is None and (method.init.needs or method.calibrated) and not division.by_shapes:
        raise BadInput(f"allocation: {method.init} divides weights by gradients: say what it will be")
    clocks = [Clock(step, total_steps, steps_per_epoch) for step in range(total_steps + 1)]
    targets = [method.schedule(clock, check_density(density)) for clock in clocks]
    start = targets[0].final if targets[0] else density
    products = products_of(method.calibrated.values(), division.infos.values())
    first = division.full if method.starts_full else start
    _integrate(meter, method, targets, first, allocation or division, products)
    return meter


def _integrate(
    meter: TrainingMeter,
    method: Method,
    targets: Sequence[Target | None],
    density: float,
    allocation: Allocation,
    products: Mapping[str, int],
) -> None:
    """Add every step as the Sparsifier makes it. targets: of steps 0, 1, ...; density: before the first."""

    def active(density: float) -> dict[str, int]:
        return {name: round(d * meter.costs[name].weights) for name, d in allocation(density).items()}

    last = max((step for step, target in enumerate(targets) if target and step), default=0)
    undecided = method.init.waits  # the first batch goes through the dense network
    rounds = method.init.rounds
    if rounds.probe == "batch":
        _look(meter, method, density, allocation, products)
    held, steps = {} if undecided else active(density), Counter[bool]()
    backward = targets[0].backward if targets[0] else None
    trained = {} if undecided or backward is None else active(backward)
    for step, due in enumerate(targets[1:], start=1):
        ahead = next((k for k, target in enumerate(targets[step : step + method.reach]) if target), None)
        folds = method.folds(step <= last, ahead)
        needed = method.signals(due, density, step <= last, folds)
        needed |= method.init.needs if undecided else Signal.NONE
        steps[bool(needed & (Signal.GRAD | Signal.MOMENTUM))] += 1
        moves = due is not None and (due.final, due.backward) != (density, backward)
        if not (moves or undecided or step == len(targets) - 1):
            continue
        for dense_gradient, count in steps.items():
            meter.add(held, count, dense_gradient, trained)
        density, backward = (due.final, due.backward) if due else (density, backward)
        held, undecided = active(density), False
        trained = {} if backward is None else active(backward)
        steps.clear()


def _look(
    meter: TrainingMeter,
    method: Method,
    density: float,
    allocation: Allocation,
    products: Mapping[str, int],
) -> None:
    """Add an init's looks at batches, each of which is as large as a step's."""
    rounds, held = method.init.rounds, dict[str, int]()
    sparse, dense = passes_of(method.init.needs, method.calibrated.values())
    for k in range(1, rounds.count + 1):
        meter.look(held, rounds.batches, sparse, dense, products)
        divided = allocation(rounds.density_at(k, density))
        held = {name: round(d * meter.costs[name].weights) for name, d in divided.items()}


class _Division:
    """How the engine divides a density among layers: by shapes anew, otherwise in proportion to the start."""

    def __init__(self, model: nn.Module, method: Method, dense_layers: Sequence[str]) -> None:
        self.layers, _ = budgeted_layers(model, (*method.dense_layers, *patterns_of(dense_layers)))
        self.infos = {name: layer.info for name, layer in self.layers.items()}
        self.structures = {name: fitted(method.structure, info)[0] for name, info in self.infos.items()}
        self.size = sum(info.numel for info in self.infos.values())
        self.init, self.by_shapes = method.init, by_shape(method.init.share)
        self.limits = bounds(self.infos, self.structures)
        self.start: dict[str, float] = {}  # of an init that ranks weights

    @property
    def full(self) -> float:
        """The most that the structure allows."""
        return sum(self.limits[1].values()) / self.size

    def __call__(self, density: float) -> dict[str, float]:
        """The density of each layer in the budget."""
        n = round(density * self.size)
        if self.start:
            budget = apportion(self.start, n, *self.limits)
        else:
            budget = initial_budget(self.layers, self.structures, self.init, n)
            self.start |= {} if self.by_shapes else budget
        return {name: count / self.infos[name].numel for name, count in budget.items()}
