"""What tests of loops are held against."""

import pytest

from fakes.engine import mlp, train
from fakes.loops import sparsify


@pytest.fixture(scope="session")
def reference():
    """Twelve plain steps of RigL with set_to_none gradients."""
    model = mlp()
    sparsifier = sparsify(model)
    train(model, sparsifier, 12)
    assert len(sparsifier.history) == 6
    return model, sparsifier
