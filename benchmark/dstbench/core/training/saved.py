"""What stands in a Sparsifier's checkpoint: fields and types are checked when one is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from dstbench.core.engine.books import Books
from dstbench.core.training.support import Removal
from dstbench.core.training.topology import UpdateReport
from dstbench.errors import BadInput, nearest

BY_LAYER = ("masks", "explored", "kept", "initial")
OF_SOME = ("support", "momentum", "paths", "memory", "trained", "inactive")


class Saved(BaseModel):
    """A checkpoint of version 3."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    seed: int
    total_steps: int
    target_density: float
    method: dict[str, Any]
    shapes: dict[str, list[int]]
    books: Books
    undecided: bool
    steps: NonNegativeInt
    waits: NonNegativeInt = 0  # an older checkpoint doesn't say
    history: list[UpdateReport]
    removals: list[Removal]
    masks: dict[str, Tensor]  # packed bits, uint8 [ceil(numel / 8)], by layer
    explored: dict[str, Tensor]
    kept: dict[str, Tensor]
    support: dict[str, Tensor]  # of the layers that lost positions for good
    initial: dict[str, int]
    momentum: dict[str, Tensor]  # float [*w], of the layers that have one
    paths: dict[str, str]
    memory: dict[str, Tensor] = {}  # float [*w], of methods whose values remember
    trained: dict[str, Tensor] = {}  # packed bits, of methods that train more than is active
    inactive: dict[str, Tensor] = {}  # float [*w], of the same: what isn't active holds
    totals: dict[str, dict[str, Tensor]] = {}  # of accumulators, by name and layer

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raise BadInput where a field isn't of these layers."""
        known = list(layers)
        held = {field: getattr(self, field) for field in (*BY_LAYER, *OF_SOME)}
        for name, totals in self.totals.items():
            strange = next((layer for layer in totals if layer not in known), None)
            if strange is not None:
                raise BadInput(
                    f"checkpoint: totals.{name}: there is no layer {strange!r}{nearest(strange, known)}"
                )
        held |= {
            f"books.{field}": vars(self.books)[field] for field in ("budget", "allocation", "proportions")
        }
        for field, values in held.items():
            for name in values:
                if name not in known:
                    raise BadInput(f"checkpoint: {field}: there is no layer {name!r}{nearest(name, known)}")
            missing = [name for name in known if name not in values]
            if missing and field not in OF_SOME:
                raise BadInput(
                    f"checkpoint: {field}: expected one for each layer, none for {', '.join(missing)}"
                )


def as_saved(fields: Mapping[str, Any]) -> Saved:
    """Checked. Raises BadInput, with the field, what was expected and what came."""
    try:
        return Saved.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        raise BadInput(f"checkpoint: {where}: expected a value, got nothing")
    expected = first["msg"].replace("Input should be ", "expected ", 1)
    raise BadInput(f"checkpoint: {where}: {expected}, got {type(first['input']).__name__}")
