"""Which projections make attention's heads, and how their output rows are divided among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from dstbench.api import Heads

_COUNTS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead")
_FEWER = ("num_kv_heads", "num_key_value_heads", "n_kv_heads", "n_kv_head", "kv_heads")  # of keys and values
_PACKED = {
    "qkv", "to_qkv", "qkv_proj", "Wqkv", "wqkv", "c_attn", "in_proj", "in_proj_weight", "kv", "to_kv", "kv_proj",
}  # fmt: skip
_QUERIES = {"q", "q_proj", "query", "to_q", "wq", "q_proj_weight"}
_KEYS = {"k", "k_proj", "key", "to_k", "wk", "k_proj_weight"}
_VALUES = {"v", "v_proj", "value", "to_v", "wv", "v_proj_weight"}
_OTHERS = _KEYS | _VALUES
_OUT = ("proj", "out_proj", "o_proj", "c_proj", "to_out", "wo")


def heads_of(attention: nn.Module, name: str, rows: int) -> Heads | None:
    """How the rows of a projection, by its name inside a module of attention, are divided; None where nobody says.

    The module has the number of heads as an attribute, and the projection one of the usual names. Where queries,
    keys and values are packed they are taken to lie one behind the other, as timm, torch and nanoGPT have them.
    """
    count = _number(attention, _COUNTS)
    fewer = _number(attention, _FEWER) or count
    if not count or not fewer:
        return None
    if name in _QUERIES or name in _OTHERS:
        own = fewer if name in _OTHERS else count
        return Heads(own) if rows % own == 0 else None
    if name not in _PACKED or fewer != count:
        return None
    out = (getattr(attention, field, None) for field in _OUT)
    width = next((linear.in_features for linear in out if isinstance(linear, nn.Linear)), 0)
    if not width or rows % width or width % count or rows // width > 3:
        return None
    return Heads(count, rows // width)


@dataclass(frozen=True)
class Projections:
    """One attention: the layer and the first row of its queries, keys and values, and the layer that reads them."""

    queries: tuple[str, int]
    keys: tuple[str, int]
    values: tuple[str, int]
    out: str


def projections(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Projections]:
    """The attentions whose projections have the usual names. shapes: layer name -> shape of its weight."""
    siblings: dict[str, dict[str, str]] = {}
    for name in shapes:
        parent, _, own = name.rpartition(".")
        siblings.setdefault(parent, {})[own] = name
    for inside in siblings.values():
        out = next((inside[name] for name in _OUT if name in inside), None)
        packed = next((inside[name] for name in inside if name in _PACKED), None)
        apart = [
            next((inside[n] for n in inside if n in names), None) for names in (_QUERIES, _KEYS, _VALUES)
        ]
        if out is None:
            continue
        width = shapes[out][1]
        if packed is not None and shapes[packed][0] == 3 * width:
            yield Projections((packed, 0), (packed, width), (packed, 2 * width), out)
        elif all(apart) and {shapes[name][0] for name in apart if name} == {width}:
            query, key, value = (name for name in apart if name)
            yield Projections((query, 0), (key, 0), (value, 0), out)


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    """The first of these attributes that is a whole number, else 0."""
    held = (getattr(module, name, None) for name in names)
    return next((value for value in held if type(value) is int and value > 0), 0)
