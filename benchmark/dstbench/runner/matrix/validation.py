"""Values that are checked as they are made, and pydantic's errors in this project's words: field, what was
expected, what came, the nearest key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dstbench.errors import BadInput, nearest
from dstbench.results.printable import printable, shortened, shown
from dstbench.runner.matrix.yaml import DEEPEST, MOST_NODES

LONGEST = 10_000
"""Characters of a text in a configuration."""

_EXAMPLES = {  # what to write where a matrix file lacks something
    "schema": "; write `schema: 1`",
    "name": "; write `name: mine`",
    "axes": "; write `axes: {model: small_cnn, dataset: digits, density: 0.1, recipe: rigl}`",
    "axes.model": "; write `model: small_cnn`, see `dstbench models`",
    "axes.dataset": "; write `dataset: digits`, see `dstbench datasets`",
    "axes.density": "; write `density: 0.1`",
    "training": "; write `training: {epochs: 10}`",
    "training.epochs": "; write `epochs: 10`",
}
T = TypeVar("T", bound=BaseModel)


class Frozen(BaseModel):
    """Strict: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def validated(model: type[T], value: Mapping[str, Any], where: str) -> T:
    """Validate, or raise BadInput with one line per wrong field: its path, what was expected, what came."""
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        lines = [_explain(model, item) for item in error.errors(include_url=False)]
    raise BadInput("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines)))


def unusable(value: Any) -> str | None:
    """What makes a configuration too large or too deep to look at, or no text to show; None where it is fine.

    Each value counts as often as it is there, as in YAML: a list may hold one list a million times.
    """
    left = MOST_NODES
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    while stack:
        item, path, depth = stack.pop()
        left -= 1
        if left < 0:
            return f"expected at most {MOST_NODES:,} values, got more"
        if depth > DEEPEST:
            return f"{shortened(path, 60)}: lists and mappings in more than {DEEPEST} levels"
        if wrong := _unusable(item):
            return f"{path}: {wrong}".lstrip(": ")
        if isinstance(item, Mapping):
            if wrong := next(filter(None, map(_unusable, item)), None):
                return f"{path}: {wrong}".lstrip(": ")
            stack += [(inner, f"{path}.{name}".lstrip("."), depth + 1) for name, inner in item.items()]
        elif isinstance(item, list | tuple):
            stack += [(inner, f"{path}[{index}]", depth + 1) for index, inner in enumerate(item[: left + 1])]
    return None


def _unusable(value: Any) -> str | None:
    """Why one value is refused, wherever it stands."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"expected a text of at most {LONGEST:,} characters, got {len(value):,}"
    if isinstance(value, str) and printable(value, "\n\t") != value:
        return f"expected a text that can be shown, got {shown(value)}"
    if isinstance(value, int) and abs(value) >= 2**128:
        return "expected an integer that 128 bits hold, got a larger one"
    return None


def _explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One pydantic error in this project's words."""
    loc = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest(str(loc[-1]), _keys(model, loc[:-1]))}"
    if error["type"] == "missing":
        return f"{path}: expected a value, got nothing{_EXAMPLES.get(path, '')}"
    if error["type"] == "too_short":
        return f"{path}: expected at least one value, got none"
    if error["type"] == "too_long":
        most, got = error["ctx"]["max_length"], error["ctx"]["actual_length"]
        return f"{path}: expected at most {most:,} values, got {got:,}"
    if error["type"] == "string_too_long":
        most = error["ctx"]["max_length"]
        return f"{path}: expected at most {most:,} characters, got {len(error['input']):,}"
    message = error["msg"].removeprefix("Value error, ")
    message = re.sub("^Input should be (greater|less)", r"expected a number \1", message)
    message = message.replace("Input should be ", "expected ", 1)
    got = "" if isinstance(error["input"], Mapping) and error["type"] == "value_error" else error["input"]
    came = "" if got == "" else f", got {shown(got, 100)}"
    return f"{path}: {message}{came}".lstrip(": ")


def _keys(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys that the model at ``loc`` inside ``model`` knows."""
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = field and _model_in(field.annotation)
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
