"""A method that can't train as a matrix has it is a skip with its reason before anything runs, not a failed trial."""

import pytest

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan


def skips(recipes, **training):
    """Reasons by label."""
    axes = {"model": "small_cnn", "dataset": "digits", "density": 0.2, "recipe": recipes}
    matrix = {"schema": 1, "name": "odds", "axes": axes, "controls": ["dense"]}
    trials = plan(load_matrix({**matrix, "training": {"epochs": 1, **training}}), registry()).trials
    return {trial.label: trial.skip for trial in trials}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("top-kast", "'condensed' holds active weights alone, and TopKast"),
        ("wanda", "'condensed' changes layers whose INPUTS accumulator 'input_norm' looks at"),
        ("gse-grabo", "'condensed' changes layers whose INPUTS accumulator 'inputs' looks at"),
        ("snfs", "'condensed' saves nothing where every step needs the dense gradient"),
        ("snip", "'condensed' needs masks from the start"),
        ("rigl", None),
        ("force", None),
    ],
)
def test_what_condensed_storage_cant_hold(recipe, said):
    reasons = skips([recipe], storage="condensed")
    assert reasons["dense"] is None
    assert reasons[recipe] is None if said is None else said in reasons[recipe]
    assert skips([recipe])[recipe] is None


def test_what_compact_storage_cant_hold():
    assert "'compact' holds active weights alone" in skips(["top-kast"], storage="compact")["top-kast"]
    assert skips(["rigl"], storage="compact")["rigl"] is None


def test_parts_that_dont_go_together():
    lonely = {"name": "rigl", "prune": "deep-r"}
    [_, reason] = sorted(skips([lonely]).items())
    assert reason[1].startswith("CrossedZero() reads what the values remember")
    chase = {"name": "top-kast", "structure": "emergent_channel"}
    assert any("removes positions for good" in (why or "") for why in skips([chase]).values())


def test_values_without_a_rule_for_the_optimizer():
    scaled = [{"name": "static", "values": "supar"}]
    assert not any(skips(scaled, optimizer="adamw").values())
    reasons = skips(scaled, optimizer="rmsprop")
    assert any("name the rule" in (why or "") for why in reasons.values()), reasons
