"""What a record may hold: types, ranges where they are certain, and bounds of what can be shown. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, reduce
from math import prod
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, get_args, get_origin

from typing_extensions import TypedDict, get_type_hints, is_typeddict

from dstbench.hookspecs import PARTS
from dstbench.results.measure_table import LARGEST, MEASURES, MeasureRow
from dstbench.results.printable import printable, shortened, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SMALLEST = 1 / LARGEST
"""Of what isn't zero: a speed of 1e-320 is no measurement, and its inverse no number."""
DEPTH = 32
"""Levels of lists and mappings in a record."""
TEXT = 10_000
"""Characters of one text."""
TEXTS = {"label": 1_000, "control": 100, "phase": 100, "reason": TEXT, "traceback": 100_000}
"""The same, of a record's own fields."""
TRIAL = 65_536
"""Characters of a trial as JSON: all of it may end up in one cell of a table."""

_KEY = re.compile(r"[0-9a-f]{8,64}")  # it becomes a folder name: nothing else may get through


class Trial(TypedDict):
    """The resolved configuration that the key is made of; more may stand beside these."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    density: float
    seed: int
    recipe: dict[str, Any]


class Schema(TypedDict):
    """A record. More fields than these are kept; which measures there are, ``MEASURES`` says."""

    schema_version: int
    key: str
    checksum: str
    status: Literal["ok", "failed", "oom", "timeout", "diverged", "killed", "skipped"]
    reason: str | None
    phase: str | None
    traceback: str | None
    trial: Trial
    label: str
    control: str | None
    measures: dict[str, Any]
    provenance: dict[str, Any]


def problem(record: Mapping[str, Any], plain: bool = False) -> str | None:
    """The first thing that doesn't fit the schema: field, what was expected, what came; None where all does.

    plain: ``is_plain`` of its text, which says that nothing anywhere in it is too long, too large or too small.
    """
    if misfit := _misfit(record, plain):
        return misfit
    if not _KEY.fullmatch(record["key"]):
        return f"key: expected 8 to 64 hexadecimal digits, got {shown(record['key'])}"
    measures = record["measures"]
    return (
        _too_much(record, plain)
        or _layer_problem(measures.get("layers") or ())
        or _trajectory_problem(measures.get("exploration") or {})
    )


def _misfit(record: Mapping[str, Any], plain: bool) -> str | None:
    """The first thing that isn't of its type, or out of its range."""
    from pydantic import ValidationError

    if plain:
        with suppress(ValidationError):  # the other schema has the words for it
            _schema(swift=True).validate_python(record, strict=True)
            return None
    try:
        _schema().validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = shortened(printable(".".join(map(str, first["loc"]))), 200) or "record"
        message = first["msg"].removeprefix("Value error, ")
        return f"{where}: {message}, got {shown(first['input'])}"
    return None


def escaped(value: Any, path: str = "", depth: int = 0) -> Any:
    """A JSON value with what isn't printable escaped, in texts and names; a traceback keeps its lines.

    Raises ValueError, saying where, for what is nested deeper than DEPTH.
    """
    if isinstance(value, str):
        return printable(value, "\n\t" if path == "traceback" else "")
    if not isinstance(value, dict | list):
        return value
    if depth >= DEPTH:
        raise ValueError(f"{shortened(path, 60)}: lists and mappings in more than {DEPTH} levels")
    if isinstance(value, list):
        return [escaped(item, path, depth + 1) for item in value]
    return {
        printable(name): escaped(item, f"{path}.{printable(name)}" if path else printable(name), depth + 1)
        for name, item in value.items()
    }


def fitted(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its texts shortened to what the schema allows, but for the trial, which is what its key says."""
    kept: dict[str, Any] = {name: _fitted(value) for name, value in record.items() if name not in TEXTS}
    if "trial" in record:
        kept["trial"] = record["trial"]
    return {**kept, **{name: _cut(record[name], most) for name, most in TEXTS.items() if name in record}}


def _fitted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _fitted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_fitted(item) for item in value]
    return _cut(value, TEXT)


def _cut(text: Any, most: int) -> Any:
    """A text's beginning and end: of a traceback the end says most."""
    if not isinstance(text, str) or len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]} … {text[len(text) - half :]}"


def _too_much(record: Mapping[str, Any], plain: bool) -> str | None:
    """The first text that no table can show, or number that none can reckon with."""
    for name, most in TEXTS.items():
        if record[name] is not None and len(record[name]) > most:
            return f"{name}: expected at most {most:,} characters, got {len(record[name]):,}"
    if (size := _size(record["trial"])) > TRIAL:
        return f"trial: expected at most {TRIAL:,} characters, got {size:,}"
    if plain:
        return None
    return _oversized({name: value for name, value in record.items() if name not in TEXTS}, "")


def _size(value: Any) -> int:
    """About as many characters as a value's text has."""
    if isinstance(value, dict):
        return sum(len(name) + 2 + _size(item) for name, item in value.items())
    if isinstance(value, list):
        return sum(2 + _size(item) for item in value)
    return len(value) if isinstance(value, str) else 8


def _oversized(value: Any, path: str) -> str | None:
    """The first text or name that is too long, or number too large, anywhere inside."""
    if isinstance(value, str):
        return (
            None
            if len(value) <= TEXT
            else f"{path}: expected at most {TEXT:,} characters, got {len(value):,}"
        )
    if isinstance(value, int | float):
        return None if -LARGEST <= value <= LARGEST else f"{path}: expected a number within ±{LARGEST:g}"
    if isinstance(value, dict):
        if name := next((name for name in value if len(name) > TEXT), None):
            return f"{path}: expected names of at most {TEXT:,} characters, got one of {len(name):,}"
        inner = ((item, f"{path}.{name}".lstrip(".")) for name, item in value.items())
    else:
        inner = ((item, path) for item in value or ())
    return next(filter(None, (_oversized(item, where) for item, where in inner)), None)


def _layer_problem(layers: Sequence[Mapping[str, Any]]) -> str | None:
    """Active weights are some of a layer's weights."""
    for index, layer in enumerate(layers):
        weights = prod(layer["shape"])
        if not 0 < weights >= layer["active"]:
            sizes = "×".join(map(str, layer["shape"]))
            return f"measures.layers.{index}.active: expected at most the weights of {sizes}, got {layer['active']}"
    return None


def _trajectory_problem(exploration: Mapping[str, Sequence[Any]]) -> str | None:
    """Epochs go up, and every figure of a trajectory has a value an epoch."""
    epochs = exploration.get("epoch") or ()
    if None in epochs or list(epochs) != sorted(set(epochs)):
        return f"measures.exploration.epoch: expected increasing epochs, got {shown(epochs)}"
    expected = f"expected a value for each of {len(epochs)} epochs"
    for name, values in exploration.items():
        if len(values) != len(epochs):
            return f"measures.exploration.{name}: {expected}, got {len(values)}"
    return None


# the types, for pydantic


@cache
def _schema(swift: bool = False) -> TypeAdapter[Any]:
    """``Schema`` with the types and ranges of a trial and of the measures, each of which may be missing or None.

    swift: without a look at numbers below SMALLEST, and so without a call of ours for each number.
    """
    from pydantic import AfterValidator, Field, TypeAdapter

    spec = Annotated[dict[str, Any], AfterValidator(_with_name)]
    parts = {
        **dict.fromkeys(PARTS, str | spec | None),
        **dict.fromkeys(("dense", "narrow"), bool | None),
        "multiplier": Annotated[float, Field(gt=0)] | None,
        "dense_layers": list[str] | None,
    }
    trial = {
        **get_type_hints(Trial),
        **dict.fromkeys(("model", "dataset"), spec),
        "density": Annotated[float, Field(gt=0, le=1)],
        "seed": Annotated[int, Field(ge=0, lt=2**63)],
        "recipe": _typed_dict("Recipe", parts, total=False),
        **dict.fromkeys(("training", "measure", "start"), NotRequired[dict[str, Any]]),
    }
    fields = {row.key: _ranged(row.type, _number(row, swift)) | None for row in MEASURES.values() if row.type}
    measures = _typed_dict("Measures", fields, total=False)
    deep = {"trial": _typed_dict("Trial", trial), "measures": measures}
    return TypeAdapter(_typed_dict("Schema", get_type_hints(Schema) | deep))


_typed_dict: Any = TypedDict  # a type checker knows only those whose fields are written out


def _with_name(spec: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(spec.get("name"), str):
        raise ValueError("expected a component, a mapping with a text as its `name`")
    return spec


def _number(row: MeasureRow, swift: bool) -> Any:
    """A float in the range of a measure."""
    from pydantic import AfterValidator, Field

    least, most = row.range
    if swift:
        return Annotated[float, Field(ge=least, le=most)]

    def within(value: float) -> float:
        if not least <= value <= most or 0 < abs(value) < SMALLEST:
            raise ValueError(f"expected a number from {least:g} to {most:g}")
        return value

    return Annotated[float, AfterValidator(within)]


def _ranged(hint: Any, number: Any) -> Any:
    """A type with ``number`` for every float in it, and no negative integers."""
    from pydantic import Field

    if hint in (float, int):
        return number if hint is float else Annotated[int, Field(ge=0)]
    if get_origin(hint) is Literal:
        return hint
    if is_typeddict(hint):
        fields = {name: _ranged(inner, number) for name, inner in get_type_hints(hint).items()}
        optional = {name: NotRequired[fields[name]] for name in hint.__optional_keys__}
        return _typed_dict(hint.__name__, fields | optional)
    inner = tuple(_ranged(argument, number) for argument in get_args(hint))
    if get_origin(hint) in (list, dict):
        return get_origin(hint)[inner]
    return reduce(or_, inner) if inner else hint
