"""What tests of storages share."""

import pytest

from dstbench.core.storage import fastest


@pytest.fixture
def always_faster(monkeypatch):
    """What a measurement would say is not the subject here."""
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
