"""Which projections make attention's heads, and how their output rows are divided among them."""

from __future__ import annotations

from torch import nn

from dstbench.api import Heads

_COUNTS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead")
_FEWER = ("num_kv_heads", "num_key_value_heads", "n_kv_heads", "n_kv_head", "kv_heads")  # of keys and values
_PACKED = {
    "qkv", "to_qkv", "qkv_proj", "Wqkv", "wqkv", "c_attn", "in_proj", "in_proj_weight", "kv", "to_kv", "kv_proj",
}  # fmt: skip
_QUERIES = {"q", "q_proj", "query", "to_q", "wq", "q_proj_weight"}
_OTHERS = {
    "k", "k_proj", "key", "to_k", "wk", "k_proj_weight", "v", "v_proj", "value", "to_v", "wv", "v_proj_weight",
}  # fmt: skip
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


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    """The first of these attributes that is a whole number, else 0."""
    held = (getattr(module, name, None) for name in names)
    return next((value for value in held if type(value) is int and value > 0), 0)
