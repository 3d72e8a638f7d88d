"""LLaMA (arXiv 2302.13971) as Hugging Face builds it, in the sizes that CHTs (arXiv 2501.19107) trains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dstbench_plugins.checks import check_integer
from dstbench_plugins.models import sequence_length, widen, widen_heads

_EPS = 1e-6  # of norms
_BASE = 10_000.0  # of rotary frequencies


class Rotation(NamedTuple):
    """Rotary positions (arXiv 2104.09864): pair i of a head turns by an angle of position · base^(-2i / d).

    The pairs are (i, i + d / 2), as Hugging Face's are.
    """

    cos: Tensor  # float32 [t, d / 2]
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn queries or keys, float [..., t, d]."""
        first, second = x.float().chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1).to(x.dtype)


def rotation(tokens: int, size: int, device: torch.device) -> Rotation:
    """Of positions 0 … tokens - 1 for heads of an even ``size``."""
    frequencies = _BASE ** (-torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
    angles = torch.arange(tokens, dtype=torch.float32, device=device)[:, None] * frequencies
    return Rotation(angles.cos(), angles.sin())


class Attention(nn.Module):
    """Attention to the tokens so far, with rotary positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:
        """Map float [b, t, dim] to the same shape."""
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [..., dim] to the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention and a gated perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(dim, eps=_EPS)
        self.self_attn = Attention(dim, heads)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=_EPS)
        self.mlp = SwiGLU(dim, hidden)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:
        """Map float [b, t, dim] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), turn)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class LLaMA(nn.Module):
    """Rotary positions, blocks normalised by the root mean square, an untied head. Weights start as N(0, 0.02)."""

    def __init__(self, vocabulary: int, layers: int, heads: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.head_size = dim // heads
        self.embed_tokens = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(Block(dim, hidden, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps=_EPS)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        """What looks tokens up."""
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """What makes the logits: dense in the papers."""
        return self.lm_head

    def forward(self, ids: Tensor) -> Tensor:
        """Map int64 [b, t] to logits, float [b, t, vocabulary], each of the token that follows."""
        turn = rotation(ids.shape[1], self.head_size, ids.device)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, turn)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def llama(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    layers: int = 8,
    heads: int = 8,
    dim: int = 512,
    hidden: int = 1376,
    width: float = 1.0,
) -> nn.Module:
    """LLaMA, by default of CHTs' "60M": 58,073,600 parameters at 32,000 tokens, 25,296,896 of them maskable.

    ``num_classes`` is the vocabulary, ``input_shape`` (tokens,). ``hidden`` is the width of the perceptrons; the
    embedding and the head stay dense. ``width`` multiplies ``dim``, to a multiple of twice ``heads``, and ``hidden``.
    """
    sequence_length("llama", input_shape)
    check_integer("layers", layers)
    check_integer("hidden", hidden)
    dim = widen_heads("llama", dim, heads, width, multiple=2)  # rotary pairs
    return LLaMA(num_classes, layers, heads, dim, widen(hidden, width))
