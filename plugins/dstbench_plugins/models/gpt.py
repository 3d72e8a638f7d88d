"""GPT: nanoGPT's form of GPT-2 (Radford et al., 2019), which maps token ids to the logits of the next one."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from dstbench.errors import BadInput
from dstbench_plugins.checks import check_fraction, check_integer
from dstbench_plugins.models import sequence_length, widen_heads


class CausalSelfAttention(nn.Module):
    """Attention to the tokens so far. ``c_attn`` makes queries, keys and values: three blocks of ``dim`` rows."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = nn.Linear(dim, 3 * dim, bias=False)
        self.c_proj = nn.Linear(dim, dim, bias=False)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, t, dim] to the same shape."""
        q, k, v = (
            self.c_attn(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [b, heads, t, d]
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: Tensor = self.resid_dropout(self.c_proj(mixed.transpose(1, 2).flatten(2)))
        return out


class Block(nn.Module):
    """Attention and a perceptron four times as wide, each behind a norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, bias=False)
        self.attn = CausalSelfAttention(dim, heads, dropout)
        self.ln_2 = nn.LayerNorm(dim, bias=False)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, 4 * dim, bias=False),
                gelu=nn.GELU(),
                c_proj=nn.Linear(4 * dim, dim, bias=False),
                dropout=nn.Dropout(dropout),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, t, dim] to the same shape."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """Learned positions, pre-norm blocks, a last norm, and a head that is tied to the token embedding.

    No layer has a bias. Weights start as N(0, 0.02), and those that add to the residual stream, ``c_proj``, as
    N(0, 0.02 / √(2 · layers)); norms have eps 1e-5.
    """

    def __init__(
        self, vocabulary: int, block: int, layers: int, heads: int, dim: int, dropout: float
    ) -> None:
        """block: the most tokens that it can see."""
        super().__init__()
        self.block = block
        self.wte = nn.Embedding(vocabulary, dim)
        self.wpe = nn.Embedding(block, dim)
        self.drop = nn.Dropout(dropout)
        self.h = nn.Sequential(*(Block(dim, heads, dropout) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(dim, bias=False)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        self._initialise(layers)

    def _initialise(self, layers: int) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                std = 0.02 / (2 * layers) ** 0.5 if name.endswith("c_proj") else 0.02
                nn.init.normal_(module.weight, std=std)

    def get_input_embeddings(self) -> nn.Module:
        """What looks tokens up; by this name in Hugging Face's models, too."""
        return self.wte

    def get_output_embeddings(self) -> nn.Module:
        """What makes the logits."""
        return self.lm_head

    def forward(self, ids: Tensor) -> Tensor:
        """Map int64 [b, t] to logits, float [b, t, vocabulary], each of the token that follows.

        Raises BadInput where there are more than ``block`` tokens.
        """
        if ids.shape[1] > self.block:
            raise BadInput(f"gpt: expected at most {self.block} tokens, got {ids.shape[1]}")
        positions = torch.arange(ids.shape[1], device=ids.device)
        logits: Tensor = self.lm_head(self.ln_f(self.h(self.drop(self.wte(ids) + self.wpe(positions)))))
        return logits


def gpt(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    layers: int = 4,
    heads: int = 4,
    dim: int = 128,
    dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Module:
    """nanoGPT (karpathy/nanoGPT): by default the one of its README for a CPU, 804,096 parameters.

    ``num_classes`` is the vocabulary, ``input_shape`` (tokens,). The "baby GPT" that the README trains on a GPU is
    ``layers=6, heads=6, dim=384, dropout=0.2`` with 256 tokens: 10,745,088 parameters at 65 characters. Of these
    786,432 and 10,616,832 are maskable: the head is tied to the embedding, and both stay dense. ``width`` multiplies
    ``dim``, to a multiple of ``heads``.
    """
    block = sequence_length("gpt", input_shape)
    check_integer("layers", layers)
    check_fraction("dropout", dropout, below=True)
    return GPT(num_classes, block, layers, heads, widen_heads("gpt", dim, heads, width), dropout)
