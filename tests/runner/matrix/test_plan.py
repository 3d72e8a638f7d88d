"""Plans: cells, controls, keys, what is refused, and what is said before anything runs."""

import copy
import hashlib
from collections import Counter

import pytest

from dstbench.errors import BadInput
from dstbench.recipe import Recipe
from dstbench.registration.registry import registry
from dstbench.results.labels import spec_text
from dstbench.results.record import canonical
from dstbench.runner.matrix.cells import cells
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.key import digest
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.plan import plan

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": ["rigl"]},
    "controls": [],
    "training": {"epochs": 2},
}


def planned(*settings, **changes):
    document = copy.deepcopy(MATRIX)
    document["axes"] |= changes.pop("axes", {})
    return plan(load_matrix({**document, **changes}, settings), registry())


def the_key(*settings, **changes):
    [trial] = planned(*settings, **changes).trials
    return trial.key


def test_quick_is_72_cells_and_their_controls():
    quick = plan(load_matrix("quick"), registry())
    methods = [trial for trial in quick.trials if not trial.control]
    assert len(methods) == 72
    assert [t.label for t in quick.trials if t.control] == [
        "dense",
        "static",
        "static(structure=channel)",
        "static(structure=shuffled_block(block_size=8))",
        "static(init=uniform)",
        "static(init=uniform, structure=channel)",
        "static(init=uniform, structure=shuffled_block(block_size=8))",
        "small-dense",
    ]
    assert len({trial.key for trial in quick.trials}) == len({trial.label for trial in methods}) + 8 == 80
    assert quick.notes == ()  # in particular: ten topology updates in each


def test_quick_has_a_static_control_for_every_init_and_structure():
    trials = plan(load_matrix("quick"), registry()).trials

    def starts(control):
        recipes = [t.trial.recipe for t in trials if t.control == control]
        return {canonical([recipe.init, recipe.structure]) for recipe in recipes}

    assert starts("static") == starts(None)
    assert {t.trial.recipe.schedule["name"] for t in trials if t.control == "static"} == {"never"}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_suite(name):
    trials = plan(load_matrix(name), registry()).trials
    count = Counter(trial.control for trial in trials)
    settings = 3 * 3 * 3  # models, densities, seeds
    assert count == {None: 10 * settings, "static": settings, "small-dense": settings, "dense": 3 * 3}
    assert not [trial.skip for trial in trials if trial.skip]  # every model has its small-dense control


def test_model_without_width_skips_its_small_dense_control():
    [trial] = planned(axes={"model": "timm:resnet10t", "recipe": "small-dense"}).trials
    assert "takes no `width`" in trial.skip


def test_static_takes_a_structure_by_name_or_with_parameters():
    structure = {"name": "shuffled_block", "block_size": 8}
    static = planned(axes={"recipe": [{"name": "static", "structure": s} for s in ("channel", structure)]})
    assert [t.trial.recipe.structure for t in static.trials] == [{"name": "channel"}, structure]
    with pytest.raises(BadInput, match=r"parameter 'structure' expected .*got 3 \(int\)"):
        planned(axes={"recipe": {"name": "static", "structure": 3}})


def test_trial_is_resolved_and_leaves_defaults_out():
    [trial] = planned().trials
    assert trial.trial.to_json() == {
        "model": {"name": "small_cnn"},
        "dataset": {"name": "digits"},
        "density": 0.1,
        "seed": 0,
        "recipe": {
            "init": {"name": "erk"},
            "structure": {"name": "unstructured"},
            "prune": {"name": "magnitude"},
            "grow": {"name": "gradient"},
            "schedule": {"name": "cosine"},
        },
        "training": {"epochs": 2},
        "measure": {},
    }
    assert (trial.label, trial.control, trial.skip) == ("rigl", None, None)


def test_dense_is_one_trial_at_every_density_and_small_dense_one_at_each():
    trials = planned(axes={"density": [0.2, 0.1], "seed": [0, 1]}, controls=["dense", "small-dense"]).trials
    assert Counter(t.control for t in trials) == {None: 4, "small-dense": 4, "dense": 2}
    [dense, _] = [t.trial for t in trials if t.control == "dense"]
    assert (dense.recipe, dense.density) == (Recipe(dense=True), 1.0)
    assert all(t.trial.recipe.narrow for t in trials if t.control == "small-dense")


def test_same_method_by_recipe_and_by_its_parts_is_one_trial():
    by_parts = {"init": "erk", "structure": "unstructured", "prune": "magnitude", "grow": "gradient"}
    both = planned(axes=by_parts)
    assert (len(both.trials), both.duplicates) == (1, 1)
    assert both.trials[0].label == "rigl"
    assert the_key() == the_key(axes={**by_parts, "recipe": None})


def test_a_recipe_with_a_piece_changed_is_its_parts_with_a_readable_label():
    """However the change is written, and whatever of it the recipe has anyway."""
    parts = {"init": "er", "structure": "unstructured", "prune": "magnitude", "grow": "momentum"}
    [varied] = planned(axes={"recipe": {"name": "rigl", "grow": "momentum", "init": "er"}}).trials
    assert (varied.label, varied.control) == ("rigl(grow=momentum, init=er)", None)
    assert varied.key == the_key(axes={**parts, "recipe": None})
    spelled = {"init": {"name": "er"}, "grow": {"name": "momentum"}, "prune": "magnitude", "alpha": 0.3}
    [same] = planned(axes={"recipe": {"name": "rigl", **spelled}}).trials
    assert (same.key, same.label) == (varied.key, varied.label)


def test_every_field_of_a_recipe_can_be_changed():
    changes = {"schedule": "never", "dense_layers": ["@first_conv"], "multiplier": 2}
    [trial] = planned(axes={"recipe": {"name": "rigl", **changes}}).trials
    assert trial.label == "rigl(dense_layers=@first_conv, multiplier=2, schedule=never)"
    assert trial.trial.recipe.schedule == {"name": "never"}
    assert trial.trial.recipe.dense_layers == ("@first_conv",)
    assert trial.trial.training.epochs == 4


def test_a_control_that_moves_is_none():
    recipes = ["static", {"name": "static", "init": "uniform"}, {"name": "static", "schedule": "cosine"}]
    assert [t.control for t in planned(axes={"recipe": recipes}).trials] == ["static", "static", None]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"name": "rigl", "grw": "random"}, r"unknown parameter 'grw'; did you mean 'grow'\?"),
        ({"name": "rigl", "grow": "momentun"}, r"unknown grow 'momentun'; did you mean 'momentum'\?"),
        ({"name": "rigl", "grow": 3}, r"recipe 'rigl': parameter 'grow' expected .*got 3 \(int\)"),
        ({"name": "rigl", "multiplier": 0}, r"multiplier: expected a number > 0, got 0"),
        ({"name": "rigl", "dense_layers": "fc"}, r"'dense_layers' expected tuple\[str, ...\], got 'fc'"),
        ({"name": "dense", "grow": "random"}, r"recipe 'dense': it has no masks, so there is no grow"),
    ],
)
def test_a_change_that_can_not_be_is_refused(recipe, message):
    with pytest.raises(BadInput, match=rf"axes\.recipe\[0\]: .*{message}"):
        planned(axes={"recipe": recipe})


def test_label_spells_components_as_the_boards_do():
    schedules = [{"name": "cosine", "delta_t": 50, "alpha": 0.123456789}, "never"]
    trial = planned(axes={"recipe": None, "schedule": schedules}).trials[0]
    spelled = "cosine(alpha=0.123456789, delta_t=50)"
    assert spec_text(trial.trial.recipe.schedule) == spelled
    assert trial.label == f"erk · unstructured · magnitude · gradient · {spelled}"


def test_control_that_is_a_method_too_stays_a_control():
    both = planned(axes={"recipe": ["static", "rigl"]}, controls=["static"])
    assert [(t.label, t.control) for t in both.trials] == [("static", "static"), ("rigl", None)]


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": {"density": 0.10}},
        {"axes": {"recipe": {"name": "rigl"}}},
        {"axes": {"recipe": {"name": "rigl", "alpha": 0.3}}},
        {"axes": {"model": "dstbench/small_cnn"}},
        {"training": {"epochs": 2, "lr": 0.1}},
        {"training": {"batch_size": 128, "epochs": 2}},
        {"name": "other", "summary": "text"},
        {"budget": {"trial_seconds": 5, "tuning": "a lot"}},
    ],
)
def test_key_is_the_same_for_the_same_trial(changes):
    assert the_key(**changes) == the_key()


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": {"density": 0.11}},
        {"axes": {"seed": 1}},
        {"axes": {"recipe": "set"}},
        {"axes": {"recipe": {"name": "rigl", "alpha": 0.2}}},
        {"axes": {"model": {"name": "small_cnn", "width": 2.0}}},
        {"training": {"epochs": 3}},
        {"dense_layers": ["conv1"]},
    ],
)
def test_key_is_another_for_another_trial(changes):
    assert the_key(**changes) != the_key()


def test_equal_numbers_make_equal_keys():
    assert digest({"lr": 1, "b": [2.0]}) == digest({"b": [2], "lr": 1.0})
    assert digest({"lr": True}) != digest({"lr": 1})
    assert digest({"version": "1"}) != digest({"version": "2"})


def test_key_of_the_first_version_stays():
    """Finished results are found by their key: a change here makes everyone's results worthless."""
    trial = {"model": {"name": "m"}, "density": 0.1, "seed": 0}
    components = {"grow": {"name": "dstbench/gradient", "version": "1"}}
    text = (
        '{"components":{"grow":{"name":"dstbench/gradient","version":"1"}},'
        '"trial":{"density":0.1,"model":{"name":"m"},"seed":0}}'
    )
    assert digest({"trial": trial, "components": components}) == hashlib.sha256(text.encode()).hexdigest()


def test_include_and_exclude():
    axes = {"recipe": None, "density": [0.2, 0.1], "grow": ["random", {"name": "gradient"}], "init": ["erk"]}
    whole = cells(load_matrix({**MATRIX, "axes": MATRIX["axes"] | axes}))
    assert (len(whole[0]), whole[1]) == (4, 0)
    matrix = {**MATRIX, "axes": MATRIX["axes"] | axes, "controls": ["static"]}
    kept, excluded = cells(load_matrix({**matrix, "exclude": [{"grow": "gradient", "density": 0.2}]}))
    assert excluded == 1
    assert [(c.axes["density"], c.axes.get("recipe")) for c in kept] == [
        (0.2, "static"), (0.2, None), (0.1, "static"), (0.1, None), (0.1, None)
    ]  # fmt: skip
    kept, _ = cells(load_matrix({**matrix, "include": [{"grow": ["gradient", "random"], "density": 0.1}]}))
    assert {c.axes["density"] for c in kept} == {0.1}


def test_match_on_what_the_axis_does_not_hold_is_refused():
    with pytest.raises(BadInput, match=r"exclude\[0\]\.recipe: 'rigll' is not on that axis.*'rigl'"):
        planned(exclude=[{"recipe": "rigll"}])


def test_excluding_everything_is_refused():
    with pytest.raises(BadInput, match="leave no cell"):
        planned(exclude=[{"recipe": "rigl"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"recipe": "rgl"}}, r"axes\.recipe\[0\]: unknown recipe 'rgl'; did you mean 'rigl'"),
        ({"axes": {"grow": ["random", "gradiant"]}}, r"axes\.grow\[1\]: unknown grow .*'gradient'"),
        (
            {"axes": {"structure": {"name": "shuffled_block", "block": 8}}},
            r"axes\.structure\[0\]: .*unknown parameter 'block'",
        ),
        ({"axes": {"model": "smal_cnn"}}, r"axes\.model\[0\]: unknown model 'smal_cnn'; did you mean 'small"),
        (
            {"axes": {"dataset": "digit"}},
            r"axes\.dataset\[0\]: unknown dataset 'digit'; did you mean 'digits",
        ),
        ({"axes": {"model": "timm:resnet188"}}, r"axes\.model: .*resnet188.*did you mean"),
        ({"controls": ["dens"]}, r"controls\[0\]: unknown recipe 'dens'; did you mean 'dense'"),
        (
            {"training": {"epochs": 1, "optimizer": "sgdd"}},
            r"training\.optimizer: unknown .*'sgdd'; did you mean",
        ),
        ({"training": {"epochs": 1, "schedule": "cosin"}}, r"training\.schedule: unknown .*'cosine'"),
        ({"dense_layers": ["stem"]}, r"dense_layers: no layer matches 'stem'"),
        (
            {"overrides": [{"when": {}, "set": {"lr": 1}}]},
            r"overrides\[0\]\.set: unknown setting 'lr'",
        ),
        (
            {"overrides": [{"when": {}, "set": {"training.lrr": 1}}]},
            r"rigl: lrr: unknown key; did you mean 'lr'",
        ),
    ],
)
def test_unknown_name_is_refused_with_its_place_and_the_nearest(changes, message):
    with pytest.raises(BadInput, match=message):
        planned(**changes)


def test_density_that_leaves_layers_empty_is_a_skip_with_the_figures():
    [trial] = planned(axes={"density": 1e-5}).trials
    assert trial.skip.startswith("density 1e-05: 1 weights can't be divided among 5 layers")
    channels = planned(axes={"density": 0.01, "recipe": None, "structure": "channel"}).trials
    assert all("'conv3' alone takes at least 576" in trial.skip for trial in channels)


def test_more_than_a_structure_can_hold_is_a_skip_with_the_figures():
    """2:4 holds half of a layer: neither a higher density nor a schedule that starts higher can be."""
    axes = {"recipe": None, "structure": "n_of_m"}
    [dense] = planned(axes=axes | {"density": 0.6}).trials
    assert dense.skip.startswith("density 0.6: ")
    assert "at most 32672" in dense.skip  # half of 64768, and all 288 of the first, which doesn't fit
    for name, start in (("cubic", 1), ("soft_memory", 0.55)):
        [trial] = planned(axes=axes | {"density": 0.5, "schedule": name}).trials
        assert trial.skip.startswith(f"the schedule {name} starts higher: density {start:g}: ")
    assert not any(trial.skip for trial in planned(axes=axes | {"density": 0.5}).trials)
    [lower] = planned(axes=axes | {"density": 0.1, "schedule": {"name": "cubic", "initial": 0.5}}).trials
    assert lower.skip is None


def test_masks_that_never_move_are_reported():
    assert planned(axes={"recipe": None, "grow": "random", "schedule": "never"}).notes == (
        "masks never move in erk · unstructured · magnitude · random at density 0.1",
    )
    assert "masks never move in rigl at density 1" in planned(axes={"density": 1.0}).notes


def test_too_few_updates_are_reported():
    [note] = planned(training={"epochs": 20, "batch_size": 32}).notes
    steps = 20 * (1258 // 32)
    assert note.startswith(f"only {(int(0.75 * steps) - 1) // 100} topology updates in rigl at density 0.1")


def test_how_speed_is_measured_is_no_part_of_a_trial():
    [plain], [fast] = (planned(measure={"rounds": rounds}).trials for rounds in (3, 9))
    assert plain.key == fast.key


@pytest.mark.parametrize(
    ("dataset", "images"),
    [
        ("imagenet", 1_271_167),
        ({"name": "imagenet", "validation": 0}, 1_281_167),
        ({"name": "tiny-imagenet", "preset": "dsb"}, 90_000),
        ({"name": "cifar10", "preset": "chase", "validation": 0}, 50_000),
        ({"name": "synthetic", "images": 300}, 300),
    ],
)
def test_estimates_need_no_data(dataset, images):
    trials = planned(axes={"dataset": dataset}).trials
    outlook = Outlook(registry())
    assert outlook.macs(trials[0].trial) == 3 * outlook.profile(trials[0].trial).macs * images * 2


def test_a_subset_of_unknown_size_has_a_shape_but_no_estimate():
    trials = planned(axes={"dataset": {"name": "tiny-imagenet", "classes": 10, "validation": 100}}).trials
    outlook = Outlook(registry())
    assert outlook.profile(trials[0].trial).parameters > 0
    assert outlook.macs(trials[0].trial) is None


def test_a_wrong_preset_stops_a_plan():
    with pytest.raises(BadInput, match="dataset 'cifar10': preset: no 'chas'; did you mean 'chase'"):
        planned(axes={"dataset": {"name": "cifar10", "preset": "chas"}})


def test_a_network_that_torch_refuses_says_why_in_a_line():
    from dstbench.runner.matrix.outlook import _profile

    def factory(num_classes, input_shape):
        raise TypeError("Overflow\nException raised from unpack at numbers.h:79")

    assert _profile(factory, (1, 8, 8), 10, ()).misfit.endswith("for this data: TypeError: Overflow")
