"""Every extension point. Hooks serve discovery and observation only: none runs inside a mask update.

A plugin is a module named by an entry point of the group ``dstbench``::

    [project.entry-points.dstbench]
    mine = "my_package.plugin"

with functions marked ``@dstbench.hookimpl``. Each ``register_*`` hook is called once with ``register(name,
target, *, parameters={}, summary="", version="1", **metadata)``. ``target`` is a class, a factory, or a string
``"package.module:Class"``, which is imported only when the component is used: listing plugins stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("dstbench")
hookimpl = pluggy.HookimplMarker("dstbench")


class Register(Protocol):
    """Adds one component to the registry."""

    def __call__(
        self,
        name: str,
        target: Any,
        *,
        parameters: Mapping[str, Any] = MappingProxyType({}),
        summary: str = "",
        version: str = "1",
        **metadata: Any,
    ) -> None:
        """Register ``target`` under ``name``. ``version`` is the component's own: part of a trial's identity.

        With ``parameters`` the name is an alias, of the target as the spec ``{name: ..., **parameters}`` describes
        it: ``register("chase-0.4", "my_package:chase", parameters={"channel_sparsity": 0.4})``. What a spec may
        say of the target it may say of the alias, whose parameters are defaults. An alias is a component with a
        version of its own: raise it whenever its parameters change.
        """
        ...


@hookspec
def register_init(register: Register) -> None:
    """Init strategies: a Share (how dense each layer starts), a Score, or a Policy of both."""


@hookspec
def register_prune(register: Register) -> None:
    """Prune strategies: a Score (higher = keep), a Share, or a Policy."""


@hookspec
def register_grow(register: Register) -> None:
    """Grow strategies: a Score (higher = activate first), a Share, or a Policy."""


@hookspec
def register_share(register: Register) -> None:
    """Shares that any init, prune or grow score can be combined with: ``{name: magnitude, share: global}``."""


@hookspec
def register_accumulator(register: Register) -> None:
    """Accumulators: what builds up over steps, for scores that say ``accumulators = {"v": "second_moment"}``."""


@hookspec
def register_structure(register: Register) -> None:
    """Structures: a Layout (a partition into units), a full Structure, or a Support (what goes for good)."""


@hookspec
def register_schedule(register: Register) -> None:
    """Schedules: when the topology is updated, and the densities after its prune and its grow half."""


@hookspec
def register_values(register: Register) -> None:
    """Values: what weights hold at the start and where they grow, and how fast each layer learns."""


@hookspec
def register_recipe(register: Register) -> None:
    """Recipes: factories of ``Recipe``. Metadata ``control="..."`` marks a control of every suite."""


@hookspec
def register_model(register: Register) -> None:
    """Models: ``(num_classes, input_shape, **parameters) -> nn.Module``. Metadata ``input_shape``, ``num_classes``.

    A name that ends in a colon is a family: ``timm:`` gets what follows the colon as its parameter ``variant``.
    """


@hookspec
def register_dataset(register: Register) -> None:
    """Data sets: a DatasetFactory. Metadata ``revision``, ``input_shape``, ``num_classes``, ``summary``.

    For estimates and listings also ``train_images``, ``validation_images`` and ``test_images`` (entries: images, or
    windows of a text), ``epoch`` (the parameter that says how many entries an epoch has), ``presets``.
    """


@hookspec
def register_executor(register: Register) -> None:
    """Executors: what runs a plan's trials, each in its own process."""


@hookspec
def trial_started(trial: Mapping[str, Any]) -> None:
    """A trial begins. ``trial`` is its resolved configuration; observers may not change it."""


@hookspec
def topology_updated(trial: Mapping[str, Any], step: int, report: Mapping[str, Any]) -> None:
    """A topology update was applied at ``step``; ``report`` has density, grown, dropped and R_s."""


@hookspec
def trial_finished(trial: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """A trial ended, well or not; ``result`` is its record."""


KINDS = (
    *("init", "structure", "prune", "grow", "share", "accumulator", "schedule", "values", "recipe"),
    *("model", "dataset", "executor"),
)
"""What can be registered, in the order in which listings show it."""
STRATEGIES = ("init", "structure", "prune", "grow", "schedule")
"""The kinds of which a method is one choice each, as a recipe names them."""
PARTS = (*STRATEGIES, "values")
"""All kinds that a recipe names. ``values`` is said only where it isn't the plain one: see ``recipe.parts_of``."""
POLICIES = ("init", "prune", "grow")
"""The kinds that are made of a score and a share."""
