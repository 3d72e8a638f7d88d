"""Experiments found in records, and what is said of them: nothing guessed, nothing dropped in silence."""

from __future__ import annotations

import pytest

import dstbench
from dstbench.report.evidence.effects import effects
from dstbench.report.evidence.words import effect_sentences
from fakes.records import recipe_of

NOISE = (0.3, -0.2, -0.1)  # of three seeds


def additive(init, structure, prune, grow, seed):
    """uniform costs 2 points, more or less; prune nothing; random growth 10."""
    return (
        95.0 - (2.0 + NOISE[seed]) * (init == "uniform") - (10.0 - NOISE[-seed]) * (grow == "random") + seed
    )


def said(found):
    return dict(effect_sentences(found))


def test_main_effects_by_hand(tmp_path, put, factorial):
    [found] = dstbench.effects(put(tmp_path, factorial(additive)))
    erk, uniform = found.main.of("init")
    assert (erk.levels, erk.mean, uniform.mean) == (("erk",), pytest.approx(1.0), pytest.approx(-1.0))
    # by seed 1.15, 0.9, 0.95: s = 0.1323; t(1 − 0.05 / 10, 2) with 1 + 3 + 1 effects = 9.9248
    assert erk.high - erk.mean == pytest.approx(9.9248 * 0.13229 / 3**0.5, rel=1e-3)
    assert [effect.mean for effect in found.main.of("prune")] == pytest.approx([0, 0, 0])
    assert found.mean == pytest.approx(95 - 1 - 5 + 1)
    assert found.explained == pytest.approx(1.0)


def test_what_is_better_than_what_and_what_cant_be_told(tmp_path, put, factorial):
    def noisy(init, structure, prune, grow, seed):
        return (
            additive(init, structure, prune, grow, seed)
            + {"set": NOISE, "mest": NOISE[::-1]}.get(prune, (0, 0, 0))[seed]
        )

    [found] = effects(put(tmp_path, factorial(noisy)))
    sentences = said(found)
    assert sentences["init"].startswith("erk is better than uniform by 2.00 points [")
    assert sentences["grow"].startswith("gradient is better than random by 10.0")
    assert "magnitude" in sentences["prune"]
    assert "can't be told apart: differences of up to" in sentences["prune"]
    assert "better" not in sentences["prune"]
    assert sentences["Tried"].startswith(
        "12 combinations of init (2) × prune (3) × grow (2), at 3 seeds of small_cnn on digits at density 0.1: 36 "
    )
    assert "about others it says nothing" in sentences["Not said"]


def test_interplay_is_named_with_its_size(tmp_path, put, factorial):
    def collapsing(init, structure, prune, grow, seed):
        return 10.0 + seed if (init, grow) == ("uniform", "random") else 90.0 + NOISE[seed] * (init == "erk")

    [found] = effects(put(tmp_path, factorial(collapsing)))
    sentences = said(found)
    assert "What one gives depends on the other: init uniform with grow random" in sentences[
        "init × grow"
    ] or ("init erk with grow gradient" in sentences["init × grow"])
    assert sentences["Collapsed"].startswith("3 of 12 combinations")


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_give_effects_without_intervals(tmp_path, put, factorial, seeds):
    [found] = effects(put(tmp_path, factorial(additive, seeds=range(seeds))))
    assert all(effect.low is None for effect in (*found.main.effects, *found.interactions.effects))
    assert f"with {seeds} repetition" in said(found)["init"]
    assert "nothing says whether that is more than chance" in said(found)["init"]


def test_what_never_varies_has_no_interval(tmp_path, put, factorial):
    [found] = effects(put(tmp_path, factorial(lambda i, s, p, grow, seed: 90.0 + (grow == "random"))))
    assert not any(effect.told for effect in found.main.effects)
    assert "the same in every repetition" in said(found)["grow"]


def test_failed_trials_are_counted_and_their_seeds_still_used(tmp_path, put, factorial):
    def failing(init, structure, prune, grow, seed):
        return (
            "oom"
            if (init, prune, grow, seed) == ("erk", "set", "random", 1)
            else additive(init, structure, prune, grow, seed)
        )

    [found] = effects(put(tmp_path, factorial(failing)))
    assert len(found.used) == 3
    assert found.main.of("grow")[0].mean == pytest.approx(5.0, abs=0.1)
    assert said(found)["Missing"].startswith("1 trial of 36 gave no top-1 (1 oom).")
    assert found.explained is None


def test_a_seed_with_too_few_trials_is_not_used_and_named(tmp_path, put, factorial):
    def interrupted(init, structure, prune, grow, seed):
        return None if seed == 2 and init == "uniform" else additive(init, structure, prune, grow, seed)

    [found] = effects(put(tmp_path, factorial(interrupted)))
    assert [repetition.seed for repetition in found.used] == [0, 1]
    assert "seed 2" in said(found)["Not used"]


def test_a_combination_that_was_never_tried_is_named(tmp_path, put, factorial):
    def without(init, structure, prune, grow, seed):
        return (
            None
            if (init, prune, grow) == ("erk", "set", "random")
            else additive(init, structure, prune, grow, seed)
        )

    [found] = effects(put(tmp_path, factorial(without)))
    assert found.experiment.empty == (("erk", "set", "random"),)
    assert said(found)["Never tried"] == "1 combination: erk · set · random."
    assert found.main.of("init")[0].mean == pytest.approx(1.0)
    [mean] = [mean for mean in found.means if mean.cell == ("erk", "set", "random")]
    assert (mean.gain, mean.n) == (None, 0)


def test_a_pair_of_levels_without_any_trial_has_no_interaction(tmp_path, put, factorial):
    def without(init, structure, prune, grow, seed):
        return None if (prune, grow) == ("set", "random") else additive(init, structure, prune, grow, seed)

    [found] = effects(put(tmp_path, factorial(without)))
    assert found.inestimable == ("prune × grow",)
    assert said(found)["prune × grow"].startswith("Can't be estimated")


def test_methods_that_were_not_crossed_are_no_experiment(results):
    assert effects(results) == []


def test_a_recipe_beside_an_experiment_is_not_part_of_it(tmp_path, put, make, factorial):
    strange = make("dsr", 0, 50.0, recipe=recipe_of(("dense", "channel", "global", "momentum")))
    [found] = effects(put(tmp_path, [*factorial(additive), strange]))
    assert found.experiment.aside == ("dsr",)
    assert said(found)["Not part of it"].endswith(": dsr.")
    assert found.main.of("init")[0].mean == pytest.approx(1.0)


def test_other_settings_are_other_experiments(tmp_path, put, factorial):
    def shorter(*cell):
        return additive(*cell) - 20

    records = factorial(additive) + factorial(shorter, trial={"training": {"epochs": 3}})
    found = effects(put(tmp_path, records))
    assert [one.experiment.setting for one in found] == ["epochs=12", "epochs=3"]
    assert [round(one.mean) for one in found] == [90, 70]


def test_versions_of_a_component_are_never_mixed(tmp_path, put, factorial):
    records = factorial(additive)
    for record in records:
        parts = {"init": "1", "prune": "2" if record["trial"]["seed"] == 0 else "1"}
        components = {kind: {"name": "x", "version": version} for kind, version in parts.items()}
        record["provenance"] = {**record["provenance"], "components": components}
    [found] = effects(put(tmp_path, records))
    assert found.factors[1].levels == ("magnitude v1", "mest v1", "set v1")
    assert [repetition.seed for repetition in found.used] == [1, 2]
    assert len(found.experiment.aside) == 12
    assert "of another version" in said(found)["Not part of it"]


def test_noise_is_no_evidence(tmp_path, put, factorial):
    assert effects(put(tmp_path, factorial(additive, dataset="synthetic"))) == []


def test_what_follows_the_block_is_no_choice(tmp_path, put, factorial):
    """A schedule that differs by density alone can't be told from the density."""
    records = factorial(additive)
    for record in factorial(additive, density=0.2):
        record["trial"]["recipe"]["schedule"] = {"name": "cubic"}
        record["key"] = record["key"][:-1] + ("0" if record["key"][-1] != "0" else "1")
        records.append(record)
    [found] = effects(put(tmp_path, records))
    assert [factor.kind for factor in found.factors] == ["init", "prune", "grow"]
    assert (len(found.used), found.blocks) == (6, 2)
    assert found.main.of("grow")[0].alike == 2
    assert "at 3 seeds of each of 2 blocks" in said(found)["Tried"]
