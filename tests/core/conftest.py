"""Tests of the engine run on one thread: their tensors are small. Properties are tried on the same examples
every time and without a deadline, so that a busy machine fails nothing."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("engine", deadline=None, derandomize=True)
settings.load_profile("engine")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
