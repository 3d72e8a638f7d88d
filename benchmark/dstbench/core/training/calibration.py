"""What an init may look at before training: batches with their loss, and passes over a copy of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dstbench.api import LayerInfo, Rounds, Signal, StrategyError
from dstbench.api.accumulators import Folding
from dstbench.core import ranks
from dstbench.core.engine.random import generator
from dstbench.core.engine.update import Masks
from dstbench.core.network.inputs import Inputs, batch_size, call, each_tensor, first_sample, tensors
from dstbench.core.network.layers import Layer, maskable_layers, unwrap
from dstbench.core.training.activity import Activity
from dstbench.errors import BadInput


@dataclass(frozen=True)
class Calibration:
    """Batches for inits that look at some before training, each rank's its own, and their loss.

    batches: pairs (inputs, targets), of which as many are taken as the init asks for; taken anew where they end.
    loss: a mean over a batch, of (outputs, targets).
    """

    batches: Iterable[tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor]

    def __post_init__(self) -> None:
        """Refuse what can't be gone through, or called."""
        if not isinstance(self.batches, Iterable):
            came = type(self.batches).__name__
            raise BadInput(f"calibration: batches: expected pairs (inputs, targets), got {came}")
        if not callable(self.loss):
            raise BadInput(
                f"calibration: loss: expected a function of outputs and targets, got {self.loss!r}"
            )

    def endless(self) -> Iterator[tuple[Inputs, Any]]:
        """The batches, over and over."""
        while True:
            count = 0
            for batch in self.batches:
                if not isinstance(batch, tuple | list) or len(batch) != 2:
                    raise BadInput(
                        f"calibration: batches: expected pairs (inputs, targets), got {type(batch).__name__}"
                    )
                count += 1
                yield batch[0], batch[1]
            if not count:
                raise BadInput("calibration: batches: expected at least one, got none")


@dataclass(frozen=True)
class Pass:
    """What one look at the network cost: samples, of all ranks, that went through it."""

    active: Mapping[str, int]  # weights of each layer
    samples: int
    sparse: int  # passes through the active weights: a forward, a gradient of the inputs
    dense: int  # gradients of all weights
    products: Mapping[str, int] = field(default_factory=dict)  # of pairs of a layer's inputs, at each place


def passes_of(needs: Signal, foldings: Iterable[Folding]) -> tuple[int, int]:
    """What a look at a sample costs: passes through the active weights and gradients of all weights. A forward pass
    alone, or with a backward pass; H g costs as much as two of these, behind one for g."""
    every = needs
    for folding in foldings:
        every |= folding.needs
    if not every & (Signal.GRAD | Signal.ACTIVE_GRAD | Signal.OUTPUT_GRADIENTS | Signal.HESSIAN):
        return 1, 0
    return (6, 3) if Signal.HESSIAN in every else (2, 1)


def products_of(foldings: Iterable[Folding], infos: Iterable[LayerInfo]) -> dict[str, int]:
    """The products of pairs of inputs that a look makes at each place of a layer: as many as the layer's own where it
    has at most as many rows as columns."""
    pairing = [folding for folding in foldings if folding.pairs]
    made = {i.name: sum(f.fits(i) for f in pairing) * min(i.shape[:2]) * i.shape[1] for i in infos}
    return {name: count for name, count in made.items() if count}


@dataclass
class Rehearsal:
    """A copy of the network that goes through the rounds of an init. The network itself isn't touched, nor are random
    numbers drawn that training would have."""

    model: nn.Module
    names: Collection[str]  # of the layers in the budget
    rounds: Rounds
    needs: Signal
    foldings: Mapping[str, Folding]
    calibration: Calibration | None
    example: Inputs | None
    seed: int
    passes: list[Pass] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Copy the network, with the values of rank 0. Raises BadInput where there is nothing to look at."""
        rounds = self.rounds
        self._cost = passes_of(self.needs, self.foldings.values())
        self._backward = self._cost[1] > 0
        if rounds.probe == "batch" and self.calibration is None:
            raise BadInput(
                "calibration: the init looks at batches before training: pass "
                "calibration=dstbench.Calibration(batches, loss)"
            )
        if rounds.probe == "ones" and self.example is None:
            raise BadInput("example_input: the init is scored with ones of its shape, got NoneType")
        self.model = copy.deepcopy(unwrap(self.model))
        ranks.hold_as_rank_0(tensor.data for tensor in (*self.model.parameters(), *self.model.buffers()))
        self.model.requires_grad_(False)
        if rounds.probe == "ones":
            _make_positive(self.model)
        self.model.train(rounds.training and rounds.probe == "batch")
        every = maskable_layers(self.model)
        self.layers: dict[str, Layer] = {name: every[name] for name in self.names}
        self._whole = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        self.activity = Activity(self.layers, self.model, self.seed)
        self._batches = None if self.calibration is None else self.calibration.endless()

    def looks(self, masks: Masks, number: int) -> Iterator[dict[str, dict[str, Tensor]]]:
        """The signals of each batch of a round, the network masked so: fields by layer, averaged over ranks.

        masks: bool [*w] of the layers in the budget. Sums of inputs are in ``activity`` until the next batch.
        """
        with torch.no_grad():
            for name, mask in masks.items():
                weight = self.layers[name].weight
                weight.copy_(self._whole[name] * mask)
                weight.requires_grad_(self._backward)
        samples, mean, drawing = 0, dict[str, Tensor](), _drawing(self.seed, number)
        batches: Iterable[tuple[Inputs, Any]] = self._taken(number)
        plain: Callable[[], AbstractContextManager[None]] = nullcontext
        if Signal.HESSIAN in self.needs:  # all batches twice; fused attention can't be differentiated twice
            plain, batches = partial(sdpa_kernel, SDPBackend.MATH), list(batches)
            with drawing, plain():
                mean = self._mean(masks, batches)
        for inputs, targets in batches:
            self.activity.watch(self.foldings, number)
            samples += batch_size(inputs) * ranks.world()
            with drawing, plain():
                signals = self._signals(inputs, targets, masks, mean)
            yield signals
        self.activity.stop()
        active = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        made = products_of(self.foldings.values(), (layer.info for layer in self.layers.values()))
        self.passes.append(Pass(active, samples, *self._cost, made))

    def _taken(self, number: int) -> Iterator[tuple[Inputs, Any]]:
        """The batches of a round, one at a time: many don't fit into memory at once."""
        for _ in range(self.rounds.batches if self.rounds.probe == "batch" else 1):
            with ranks.together(f"round {number} of the initial masks"):
                batch = self._batch()
            yield batch

    def _batch(self) -> tuple[Inputs, Any]:
        if self.rounds.probe == "ones":
            assert self.example is not None
            return each_tensor(first_sample(self.example), _ones), None
        assert self._batches is not None
        inputs, targets = next(self._batches)
        device = next(iter(self.layers.values())).weight.device
        return each_tensor(inputs, lambda tensor: tensor.to(device)), _on(targets, device)

    def _loss(self, inputs: Inputs, targets: Any) -> Tensor:
        outputs = call(self.model, inputs)
        if self.rounds.probe == "ones":
            total: Tensor = sum(leaf.sum() for leaf in tensors((outputs,)) if leaf.is_floating_point())  # type: ignore[assignment]
            return total
        assert self.calibration is not None
        if self.rounds.temperature != 1:
            if not isinstance(outputs, Tensor):
                came = type(outputs).__name__
                raise BadInput(
                    f"model: the init divides its outputs by a temperature: expected a tensor, got {came}"
                )
            outputs = outputs / self.rounds.temperature
        return self.calibration.loss(outputs, targets)

    def _signals(
        self, inputs: Inputs, targets: Any, masks: Masks, mean: Mapping[str, Tensor]
    ) -> dict[str, dict[str, Tensor]]:
        weights = {name: self.layers[name].weight for name in masks}
        fields: dict[str, dict[str, Tensor]] = {}
        with ranks.together("a look at the network before training"), torch.enable_grad():
            loss = self._loss(inputs, targets)
            if self._backward:
                grads = _gradients(loss, weights, graph=bool(mean))
                fields["grad"] = {name: gradient.detach().clone() for name, gradient in grads.items()}
            if mean:
                product: Any = sum((grads[name] * mean[name]).sum() for name in weights)
                fields["hessian"] = _gradients(product, weights, graph=False)
        for values in fields.values():
            ranks.average(values)
        if self._backward:
            fields["active_grad"] = {name: g.where(masks[name], 0) for name, g in fields["grad"].items()}
        return fields

    def _mean(self, masks: Masks, taken: Collection[tuple[Inputs, Any]]) -> dict[str, Tensor]:
        """The gradient of the mean loss of batches, over all ranks."""
        weights = {name: self.layers[name].weight for name in masks}
        mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        with ranks.together("a look at the network before training"), torch.enable_grad():
            for inputs, targets in taken:
                gradients = _gradients(self._loss(inputs, targets), weights, graph=False)
                mean = {name: total + gradients[name] / len(taken) for name, total in mean.items()}
        ranks.average(mean)
        return mean


def _gradients(of: Tensor, weights: Mapping[str, Tensor], graph: bool) -> dict[str, Tensor]:
    """By layer, zeros where it doesn't depend on one."""
    if not of.requires_grad:
        raise StrategyError("the initial masks can't be scored: the loss depends on no weight in the budget")
    made = torch.autograd.grad(of, list(weights.values()), create_graph=graph, allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(weights.items(), made, strict=True)
    }


def _make_positive(model: nn.Module) -> None:
    """|network| in float64: every value's size. Norms over features, which have no positive form, pass through."""
    for path, module in list(model.named_modules()):
        if path and isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
            model.set_submodule(path, nn.Identity())
    model.double()
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.abs_()
    tokens: Any = getattr(model, "get_input_embeddings", None)
    embeddings = (
        [tokens()] if callable(tokens) else [m for m in model.modules() if isinstance(m, nn.Embedding)]
    )
    for embedding in embeddings:
        if isinstance(embedding, nn.Embedding):
            embedding.register_forward_hook(_ones_instead)


def _ones_instead(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return torch.ones_like(output)


def _ones(tensor: Tensor) -> Tensor:
    """Ones in float64; whole numbers, which are looked up, are zeros."""
    floating = tensor.is_floating_point()
    return torch.ones_like(tensor, dtype=torch.float64) if floating else torch.zeros_like(tensor)


def _on(targets: Any, device: torch.device) -> Any:
    return targets.to(device) if isinstance(targets, Tensor) else targets


class _drawing:
    """Random numbers of a round's own, such as dropout's; entered again, they go on."""

    def __init__(self, seed: int, number: int) -> None:
        self._devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        self._seed = generator(seed, "rounds", number, f"of rank {ranks.rank()}").initial_seed()
        self._states: list[Tensor] = []

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=self._devices)
        self._fork.__enter__()
        if not self._states:
            torch.manual_seed(self._seed)
            return
        torch.set_rng_state(self._states[0])
        for device, state in zip(self._devices, self._states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *error: Any) -> None:
        self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
        self._fork.__exit__(*error)
