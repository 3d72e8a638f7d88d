"""What a storage can't hold shows in the plan."""

import pytest

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan


def planned(recipes, storage="masked"):
    axes = {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": recipes}
    training = {"epochs": 2, "storage": storage}
    document = {"schema": 1, "name": "test", "axes": axes, "controls": [], "training": training}
    return plan(load_matrix(document), registry()).trials


@pytest.mark.parametrize("storage", ["condensed", "compact"])
def test_what_a_storage_lacks_is_a_skip_that_names_method_and_storage(storage):
    recipes = ["rigl", {"name": "set", "values": {"name": "swi", "grown": "last"}}, "top-kast", "wanda"]
    rigl, values, kast, wanda = planned(recipes, storage)
    assert (rigl.skip, values.skip) == (None, None)
    assert kast.skip.startswith(f"storage: {storage!r} holds active weights alone, and TopKast(")
    assert wanda.skip.startswith(f"storage: {storage!r} changes layers whose INPUTS accumulator 'input_norm'")
    assert not any(trial.skip for trial in planned(recipes))


def test_a_superset_of_what_a_structure_removes_for_good_is_a_skip():
    [trial] = planned([{"name": "top-kast", "structure": "emergent_channel"}])
    assert "removes positions for good, which TopKast(" in trial.skip
