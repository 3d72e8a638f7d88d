"""What a condensed storage measures on: a tensor, several arguments or keywords, of any dtype."""

import pytest
import torch
from torch import nn

from dstbench.core.storage.fastest import inputs_of
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.errors import BadInput


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, 9)

    def forward(self, ids, mask):
        return {"logits": self.head(self.inner(self.words(ids) * mask[..., None]))}


IDS, MASK = torch.arange(6).view(2, 3), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize("example", [(IDS, MASK), {"mask": MASK, "ids": IDS}], ids=["positional", "keywords"])
def test_layers_see_what_several_inputs_bring_them(example):
    model = Tagger()
    seen = inputs_of(model, {"inner": model.inner}, example)["inner"]
    assert torch.equal(seen, model.words(IDS).detach() * MASK[..., None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"init": "uniform", "structure": "shuffled_block", "grow": "random"}
    sparsifier = Sparsifier(
        model, optimizer, parts, 0.25, total_steps=4, storage="condensed", example_input=example
    )
    assert set(sparsifier.arrangement.paths) == {"inner", "head"}


def test_an_example_that_is_none_is_named():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadInput, match=r"example_input: expected a tensor, a tuple .* got list \(Tensor\)"):
        Sparsifier(model, optimizer, total_steps=1, storage="condensed", example_input=[torch.ones(1, 8)])
