"""The benchmark of transformers: what is multiplied, and what no sparse layer can shorten."""

from __future__ import annotations

import argparse

import pytest

from dstbench.bench.whole_models import MODELS, TRANSFORMERS


def options(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    MODELS.add_arguments(parser)
    return MODELS.completed(parser.parse_args(arguments))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_says_what_bounds_its_ratio(name):
    given = options("--model", name, "--batch", "1", "--rounds", "1", "--warmup", "0", "--phase", "inference")
    [part] = MODELS.parts(given)
    [row] = part.rows()
    assert (row["model"], row["phase"]) == (name, "inference")
    assert 0.09 < row["density"] < 0.12  # whole columns of groups
    assert 0 <= row["elsewhere"] <= 1
    assert row["at_most"] == pytest.approx(1 / row["elsewhere"]) if row["elsewhere"] else True
    assert 3 < row["arithmetic"] < 10  # attention, and the head or the patches, aren't sparse
