"""The one mutable object: it owns a model's masks and keeps weights, optimizer state and masks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dstbench.api import Clock, LayerView, Recipe, Signal, StrategyError, Structure, Target
from dstbench.core import ranks, state
from dstbench.core.allocation import bounds, check_count, check_density, uniform_budget
from dstbench.core.layers import Layer, budgeted_layers, clean_name
from dstbench.core.method import build_method
from dstbench.core.optimizers import check_owner, innermost, multiply, overflowed
from dstbench.core.random import generator
from dstbench.core.rows import RowVector, alive_rows, row_vectors, whole_rows
from dstbench.core.select import count
from dstbench.core.signals import Signals
from dstbench.core.state import UpdateReport
from dstbench.core.structures import fitted
from dstbench.core.update import Budget, Masks, initial_masks, make_goal, update_masks
from dstbench.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

    from dstbench.registration.registry import Registry


class Sparsifier:
    """Dynamic sparse training of a model, inside anyone's loop::

        sparsifier = Sparsifier(model, optimizer, recipe="rigl", density=0.1, total_steps=10_000)
        loss.backward(); sparsifier.step()          # in place of optimizer.step()

    Calling the optimizer's own ``step`` does the same, so ``scaler.step(optimizer)`` and Accelerate's
    wrapper work: everything happens in hooks around the applied step, and a step that a loss scaler skips
    or that accumulates gradients doesn't count. Gradients are masked before the step, so inactive weights
    and their optimizer state stay exactly zero; parameters keep their storage (``data_ptr``) for good.

    Raises BadInput for a bad density, an unknown recipe or a ``dense_layers`` pattern that matches nothing,
    and Infeasible where the density is less than one unit a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        recipe: str | Recipe | Mapping[str, Any] = "rigl",
        density: float = 0.1,
        total_steps: int = 0,
        *,
        steps_per_epoch: int | None = None,
        dense_layers: Sequence[str] = (),
        seed: int = 0,
        storage: str = "masked",
        registry: Registry | None = None,
    ) -> None:
        if storage != "masked":
            raise BadInput(f"storage: expected 'masked', the only one implemented, got {storage!r}")
        check_count("total_steps", total_steps, "the number of optimizer steps of the training")
        if steps_per_epoch is not None:
            check_count("steps_per_epoch", steps_per_epoch, "the number of optimizer steps of an epoch")
        check_count("seed", seed, "an integer >= 0", least=0)
        self.method = build_method(recipe, registry)
        self.target_density = 1.0 if self.method.dense else check_density(density)
        self.seed, self.total_steps, self.steps_per_epoch = seed, total_steps, steps_per_epoch
        self.steps = 0  # applied optimizer steps
        self.history: list[UpdateReport] = []
        self.dense_gradient = False  # whether the last applied step needed a dense backward pass
        self._outer, self.optimizer = optimizer, innermost(optimizer)
        patterns = (
            *self.method.dense_layers,
            *([dense_layers] if isinstance(dense_layers, str) else dense_layers),
        )
        self.layers, self.dense_layers = budgeted_layers(model, patterns)
        hooks = getattr(self.optimizer, "_optimizer_step_pre_hooks", {}).values()
        if any(isinstance(getattr(hook, "__self__", None), Sparsifier) for hook in hooks):
            raise BadInput("optimizer: it has a Sparsifier already; detach() that one first")
        check_owner(self.optimizer, [layer.weight for layer in self.layers.values()])
        self.fallbacks: dict[str, str] = {}  # layers that the structure doesn't fit, and why
        self._structures = {name: self._structure(layer) for name, layer in self.layers.items()}
        silenced = [name for name, structure in self._structures.items() if whole_rows(structure)]
        self._rows: list[RowVector] = [] if self.method.dense else row_vectors(model, silenced)
        self.signals, self._needed = Signals(), Signal.NONE  # by the coming step
        self._due: Target | None = None
        self._armed = False  # gradients of the coming step are masked already
        self._depth = 0  # of steps within steps
        self._leaky = False  # the optimizer moves weights whose gradient and state are zero
        self._start()
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
            *[
                layer.weight.register_post_accumulate_grad_hook(self._disarm)  # type: ignore[no-untyped-call]
                for layer in self.layers.values()
                if layer.weight.requires_grad
            ],
        ]

    # What a training loop calls

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the optimizer and, when one is due, update the topology. Returns what the optimizer returns.
        Built before Accelerate's ``prepare``, it can't know the wrapper: call the prepared optimizer's step."""
        return self._outer.step() if closure is None else self._outer.step(closure)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Mask the gradients now rather than at the step: call it before clipping by norm, so that gradients
        of inactive weights don't count. Harmless to call twice. A loss scaler must have unscaled them."""
        if self._armed:
            return
        self._armed = True
        if self.method.dense:
            return
        self._settle()
        self._due = self._target(self.steps + 1)
        self._needed = self.method.signals(self._due, self._final, self.steps < self.last_update)
        gradients = {n: p.weight.grad for n, p in self.layers.items() if p.weight.grad is not None}
        self.signals.keep(gradients, self._needed, getattr(self.optimizer, "grad_scale", None))
        pairs = [(gradient, self._floats[name]) for name, gradient in gradients.items()]
        if self._silent:
            pairs += [(v.values.grad, self._alive[v.layer]) for v in self._rows if v.values.grad is not None]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def apply_masks(self, model: nn.Module) -> None:
        """Zero the inactive weights of a copy of the model, such as an average of its weights."""
        for path, module in model.named_modules():
            mask = self._masks.get(clean_name(path))
            if mask is not None and isinstance(getattr(module, "weight", None), Tensor):
                module.weight.mul_(mask.to(module.weight.device))

    def detach(self) -> None:
        """Stop: unhook from the optimizer. The model keeps its zeros."""
        for handle in self._handles:
            handle.remove()

    # What there is to see

    @cached_property
    def last_update(self) -> int:
        """The step of the training's last topology update; 0 if there is none."""
        if self.method.dense:
            return 0
        return next((step for step in range(self.total_steps, 0, -1) if self._target(step)), 0)

    @property
    def masks(self) -> Masks:
        """{layer name: bool [*w]}; not copies, so don't write to them."""
        return dict(self._masks)

    @property
    def size(self) -> int:
        """N: the maskable weights in the budget."""
        return sum(layer.info.numel for layer in self.layers.values())

    @property
    def active(self) -> Budget:
        """The measured number of active weights of each layer."""
        return dict(self._active)

    @property
    def density(self) -> float:
        """Active weights / N, measured."""
        return sum(self._active.values()) / self.size

    @property
    def explored(self) -> Budget:
        """The number of weights of each layer that were ever active, the initial mask included."""
        return dict(self._explored_counts)

    @property
    def r_s(self) -> float:
        """R_s: the fraction of weights that were ever active, the initial mask included (ITOP, arXiv 2102.02887)."""
        return sum(self._explored_counts.values()) / self.size

    @property
    def initial(self) -> Budget:
        """The number of weights of each layer that were active at the start."""
        return dict(self._initial)

    @property
    def kept(self) -> Budget:
        """The number of weights of each layer that every topology so far has held."""
        return {name: count(mask) for name, mask in self._kept.items()}

    @property
    def never_dropped(self) -> float:
        """The fraction of the initially active weights that every topology so far has held."""
        return sum(self.kept.values()) / sum(self._initial.values())

    @property
    def collapsed(self) -> list[str]:
        """Layers whose weights are all zero: grown at zero, and no gradient reaches them any more."""
        return [name for name, layer in self.layers.items() if not bool(layer.weight.detach().any())]

    def summary(self) -> DataFrame:
        """One row a layer: shape, structure, target and measured density, exploration, rows without a weight."""
        from pandas import DataFrame

        kept = self.kept
        return DataFrame(
            {
                "layer": name,
                "shape": layer.info.shape,
                "weights": layer.info.numel,
                "structure": "unstructured: " + self.fallbacks[name]
                if name in self.fallbacks
                else type(getattr(self._structures[name], "layout", self._structures[name])).__name__.lower(),
                "target": self.budget[name] / layer.info.numel,
                "measured": self._active[name] / layer.info.numel,
                "active": self._active[name],
                "r_s": self._explored_counts[name] / layer.info.numel,
                "never_dropped": kept[name] / self._initial[name],
                "dead_rows": layer.info.shape[0] - count(self._masks[name].flatten(1).any(1)),
            }
            for name, layer in self.layers.items()
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: ``torch.load(..., weights_only=True)`` reads it back."""
        return state.save(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue exactly. Raises BadInput if it was saved for other layers, another seed or another length."""
        state.load(self, saved)

    # Inside

    def _structure(self, layer: Layer) -> Structure:
        structure, reason = fitted(self.method.structure, layer.info)
        if reason is not None:
            self.fallbacks[layer.info.name] = reason
        return structure

    @torch.no_grad()
    def _start(self) -> None:
        """Initial masks, and zeros where they are inactive."""
        first = self.method.schedule(Clock(0, self.total_steps, self.steps_per_epoch), self.target_density)
        self._final = first.final if first else self.target_density
        if self.method.dense:
            masks: Masks = {n: torch.ones_like(p.weight, dtype=torch.bool) for n, p in self.layers.items()}
            self.budget = {name: layer.info.numel for name, layer in self.layers.items()}
        else:
            infos = {name: layer.info for name, layer in self.layers.items()}
            last = round(self.target_density * self.size)
            uniform_budget(
                infos, last, *bounds(infos, self._structures)
            )  # raises now, not when it gets there
            n = round(self._final * self.size)
            masks, budget = initial_masks(self.layers, self._structures, self.method.init, n, self.seed)
            ranks.broadcast(masks)
            self.budget = ranks.broadcast_counts(budget, next(iter(masks.values())).device)
        self.allocation, self._proportions = dict(self.budget), dict(self.budget)
        self.set_masks(masks)
        self._explored = {name: mask.clone() for name, mask in masks.items()}
        self._explored_counts = dict(self._active)
        self._kept, self._initial = {n: mask.clone() for n, mask in masks.items()}, dict(self._active)
        if not self.method.dense:
            self._zero({name: mask.to(self.layers[name].weight.dtype) for name, mask in masks.items()})

    def set_masks(self, masks: Masks) -> None:
        """Adopt masks, bool [*w] by layer name, with what is derived from them. Weights are not touched."""
        self._masks = {name: masks[name] for name in self.layers}
        self._floats = {name: masks[name].to(layer.weight.dtype) for name, layer in self.layers.items()}
        self._active = {name: count(mask) for name, mask in self._masks.items()}
        self._alive = alive_rows(self._masks, self._rows)

    def _target(self, step: int) -> Target | None:
        clock = Clock(step, self.total_steps, self.steps_per_epoch)
        return None if step > self.total_steps else self.method.schedule(clock, self.target_density)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Collect what a due update reads, then mask the gradients. A closure makes new ones: mask those.

        An optimizer whose step calls its parent's comes here twice: steps are counted where the outer one ends.
        """
        self._depth += 1
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.mask_gradients()
            return None

        def masked() -> Any:
            depth, loss = self._depth, closure()
            self._depth = depth  # its backward pass disarmed
            self.mask_gradients()
            return loss

        return (args[0], masked, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    @property
    def _silent(self) -> bool:
        """Whether dead rows are kept silent: once they can't come back. Until then the constant that their
        bias sends through an activation is what lets a gradient reach them."""
        return bool(self._rows) and self.steps >= self.last_update

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the applied step; update the topology if it is due."""
        self._depth -= 1
        if self._depth > 0:
            return
        self._armed = False
        if overflowed(self.optimizer):
            return
        self.steps += 1
        if self.method.dense:
            return
        self.dense_gradient = bool(self._needed & (Signal.MOMENTUM | Signal.GRAD))
        self.signals.fold(self._needed)
        if self.steps & (self.steps - 1) == 0:  # 1, 2, 4, 8, …: a warm-up from zero may hide it at first
            self._leaky = self._leaky or self._leaks()
        if self._leaky:
            self._zero(self._floats)
        if self._due is not None:
            self._update(self._due)

    def _disarm(self, weight: Tensor) -> None:
        """A backward pass made new gradients: a step that those before were masked for never came, or failed."""
        self._armed, self._depth = False, 0

    def _settle(self) -> None:
        """Follow weights that were moved or cast since, as Accelerate's ``prepare`` does."""
        weights = {name: layer.weight for name, layer in self.layers.items()}
        if all((f.device, f.dtype) == (weights[n].device, weights[n].dtype) for n, f in self._floats.items()):
            return
        self._explored = {name: mask.to(weights[name].device) for name, mask in self._explored.items()}
        self._kept = {name: mask.to(weights[name].device) for name, mask in self._kept.items()}
        self.signals.move(weights)
        self.set_masks({name: mask.to(weights[name].device) for name, mask in self._masks.items()})

    def _leaks(self) -> bool:
        """Whether an inactive weight moved: then masking gradients isn't enough for this optimizer."""
        return any(
            int(layer.weight.count_nonzero()) > self._active[name]
            and bool((layer.weight.detach() * (1 - self._floats[name])).any())
            for name, layer in self.layers.items()
        )

    def _update(self, target: Target) -> None:
        """One topology update, decided by the pure engine, then written."""
        fields = self.signals.read(self._needed, self._floats)
        views = {name: self._view(layer, fields) for name, layer in self.layers.items()}

        def draw(name: str, role: str) -> Generator:
            return generator(self.seed, name, self.steps, role)

        method = self.method
        goal = make_goal(target, self._final, views, self._structures, method.init.share, self._proportions)
        masks, self.budget = update_masks(views, self._structures, method.prune, method.grow, goal, draw)
        self._due = None
        self.allocation, self._final = goal.final_allocation, target.final
        ranks.check_equal(masks)
        self._write(masks)

    def _view(self, layer: Layer, fields: Mapping[str, Mapping[str, Tensor]]) -> LayerView:
        name = layer.info.name
        signals = {kind: values.get(name) for kind, values in fields.items()}
        if any(value is None for value in signals.values()):
            raise StrategyError(f"layer {name!r} has no gradient, which a topology update at this step needs")
        return LayerView(
            layer.info,
            layer.weight.detach(),
            self._masks[name],
            self._masks[name],
            self.budget[name],
            self.allocation[name],
            self.steps / self.total_steps,
            **signals,
        )

    def _write(self, masks: Masks) -> None:
        """Zero weights and optimizer state wherever an entry changed, and record what happened."""
        survivors, grown, dropped = {}, 0, 0
        for name, mask in masks.items():
            before = self._masks[name]
            both = mask & before
            stayed = count(both)
            dropped += self._active[name] - stayed
            survivors[name] = both.to(self._floats[name].dtype)
            self._explored[name] |= mask
            self._kept[name] &= mask
            self._explored_counts[name] = count(self._explored[name])
            grown += count(mask) - stayed
        self.set_masks(masks)
        self._zero(survivors)
        self.history.append(
            UpdateReport(self.steps, self.density, sum(self._active.values()), grown, dropped, self.r_s)
        )

    def _zero(self, survivors: Mapping[str, Tensor]) -> None:
        """Multiply weights and every optimizer state tensor of their shape by 0/1 floats, in place."""
        for name, survivor in survivors.items():
            multiply(self.optimizer, self.layers[name].weight, survivor)
        for vector in self._rows if self._silent else ():
            multiply(self.optimizer, vector.values, self._alive[vector.layer])
