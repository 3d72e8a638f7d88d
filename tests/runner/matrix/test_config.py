"""Matrix files: what is refused and in which words, settings from the command line, the suites that ship."""

import copy

import pytest
from pydantic import ValidationError

from dstbench.api import Recipe
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import Matrix, Training, load_matrix, suites
from dstbench.runner.matrix.plan import plan

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": [0.2, 0.1], "recipe": ["rigl"]},
    "training": {"epochs": 2},
}


def changed(path, value):
    document = copy.deepcopy(MATRIX)
    *sections, last = path.split(".")
    inner = document
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return document


def test_scalars_stand_for_lists_of_one():
    matrix = load_matrix(MATRIX)
    assert matrix.axes.model == ("small_cnn",)
    assert matrix.axes.seed == (0,)
    assert matrix.axes.density == (0.2, 0.1)


def test_matrix_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_matrix(MATRIX).training.lr = 1.0


@pytest.mark.parametrize("wrong", [0, -0.1, 1.5, True, "0.1"])
def test_density_outside_its_range(wrong):
    with pytest.raises(BadInput, match=r"axes\.density\[1\]: expected a number in \(0, 1\], got "):
        load_matrix(changed("axes.density", [0.1, wrong]))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("axes.modle", "x", r"axes\.modle: unknown key; did you mean 'model'\?"),
        ("axes.grow", [], r"axes\.grow: expected at least one value, got none"),
        ("axes.density", [], r"axes\.density: expected at least one value, got none"),
        ("axes.grow", [3], r"axes\.grow\[0\]: expected a name, or a mapping"),
        ("axes.grow", [{"lam": 3}], r"axes\.grow\[0\]: expected a name, or a mapping"),
        ("axes.recipe", None, r"axes: expected `recipe`, or some of init"),
        ("axes.seed", [-1], r"axes\.seed\[0\]: expected a number greater than or equal to 0, got -1"),
        ("axes.seed", [0.5], r"axes\.seed\[0\]: expected a valid integer, got 0\.5"),
        ("training.epoch", 3, r"training\.epoch: unknown key; did you mean 'epochs'"),
        ("training.lr", "0.1", r"training\.lr: expected a valid number, got '0\.1'"),
        ("training.lr", float("nan"), r"training\.lr: expected a"),
        ("training.epochs", 0, r"training\.epochs: expected a number greater than or equal to 1, got 0"),
        ("training.schedule", "multistep", "schedule multistep needs `milestones`"),
        ("training.milestones", [5, 3], r"milestones: expected increasing epochs, got \[5, 3\]"),
        ("training.mixed_precision", "fp8", r"expected 'no', 'bf16' or 'fp16', got 'fp8'"),
        ("training", 3, r"training: expected a valid dictionary"),
        ("schema", 2, r"schema: expected 1, got 2"),
        ("exclude", [{"modl": "x"}], r"exclude\[0\]: unknown axis 'modl'; did you mean 'model'\?"),
        ("overrides", [{"when": {}, "sett": {}}], r"overrides\[0\]\.sett: unknown key; did you mean 'set'"),
        ("budget", {"trial_seconds": 0}, r"budget\.trial_seconds: expected a number greater than 0, got 0"),
    ],
)
def test_wrong_field_is_named(path, value, message):
    with pytest.raises(BadInput, match=message):
        load_matrix(changed(path, value))


def test_every_wrong_field_is_named_at_once():
    document = changed("training.lr", -1)
    document["axes"]["density"] = [2]
    with pytest.raises(BadInput) as error:
        load_matrix(document)
    assert len(str(error.value).splitlines()) == 2


def test_missing_field_is_named():
    with pytest.raises(BadInput, match=r"training\.epochs: expected a value, got nothing"):
        load_matrix(changed("training", {}))


def test_settings_replace_axes_and_parameters():
    matrix = load_matrix(MATRIX, ["density=0.5,0.25", "seed=0,1", "training.lr=1e-3", "recipe.delta_t=5"])
    assert matrix.axes.density == (0.5, 0.25)
    assert matrix.axes.seed == (0, 1)
    assert matrix.training.lr == 1e-3
    assert matrix.axes.recipe == ({"name": "rigl", "delta_t": 5},)
    assert load_matrix(MATRIX).axes.recipe == ("rigl",)


def test_settings_take_flow_mappings_and_names_with_colons():
    matrix = load_matrix(
        MATRIX, ["model=timm:resnet18", "structure=channel,{name: shuffled_block, block_size: 8}"]
    )
    assert matrix.axes.model == ("timm:resnet18",)
    assert [recipe["structure"] for recipe in matrix.axes.recipe] == [
        "channel",
        {"name": "shuffled_block", "block_size": 8},
    ]


def test_recipes_on_the_command_line_replace_a_product_of_strategies():
    quick = load_matrix("quick", ["recipe=rigl,set"]).axes
    assert (quick.recipe, quick.has_product) == (("rigl", "set"), False)


def test_strategies_beside_recipes_on_the_command_line_change_them():
    """RigL with another growth is not RigL beside a product of everything."""
    rigl, set_ = ({"name": name, "grow": "momentum"} for name in ("rigl", "set"))
    for source in (MATRIX, "quick", "cifar10"):
        for settings in (["recipe=rigl,set", "grow=momentum"], ["grow=momentum", "recipe=rigl,set"]):
            axes = load_matrix(source, settings).axes
            assert (axes.recipe, axes.has_product) == ((rigl, set_), False)
    assert load_matrix("quick", ["recipe=rigl", "grow=momentum", "grow.share=global"]).axes.recipe == (
        {"name": "rigl", "grow": {"name": "momentum", "share": "global"}},
    )


def test_several_strategies_make_variants_of_a_recipe():
    axes = load_matrix(MATRIX, ["recipe={name: rigl, alpha: 0.2}", "grow=momentum,random", "init=er"]).axes
    assert axes.recipe == tuple(
        {"name": "rigl", "alpha": 0.2, "init": "er", "grow": grow} for grow in ("momentum", "random")
    )


def test_a_strategy_alone_changes_every_recipe_but_the_controls():
    axes = load_matrix("cifar10", ["grow=momentum"]).axes
    plain = load_matrix("cifar10").axes
    assert "static" in plain.recipe
    assert axes.recipe == tuple(
        name if name == "static" else {"name": name, "grow": "momentum"} for name in plain.recipe
    )
    assert load_matrix("cifar10", ["grow="]).axes.recipe == plain.recipe


@pytest.mark.parametrize("source", [MATRIX, "quick", "cifar10"])
def test_a_parameter_of_a_piece_beside_recipes_reaches_every_trial(source):
    """Never dropped with the file's product, and stronger than what the file says of a recipe."""
    settings = ["schedule.delta_t=5", "recipe=rigl,{name: set, grow: momentum}", "controls=static"]
    trials = plan(load_matrix(source, settings), registry()).trials
    recipes = [trial.trial.recipe.schedule for trial in trials]
    assert {recipe.get("delta_t") for recipe in recipes if recipe["name"] == "cosine"} == {5}
    assert any(recipe == {"name": "never"} for recipe in recipes)


def test_a_parameter_of_a_piece_alone_spares_the_controls():
    rule = load_matrix("cifar10", ["schedule.delta_t=5"]).overrides[-1]
    assert rule.set == {"schedule.delta_t": 5}
    assert "static" in load_matrix("cifar10").axes.recipe
    assert "static" not in rule.when["recipe"]


def test_strategies_on_the_command_line_replace_recipes_that_stand_beside_a_product():
    mixed = {**MATRIX, "axes": MATRIX["axes"] | {"grow": ["random", "gradient"]}}
    axes = load_matrix(mixed, ["grow=momentum"]).axes
    assert (axes.recipe, axes.grow) == (None, ("momentum",))
    assert load_matrix(MATRIX, ["recipe=", "grow=momentum"]).axes.grow == ("momentum",)


def test_nothing_after_the_equals_sign_takes_away():
    assert load_matrix(MATRIX, ["controls="]).controls == ()
    with pytest.raises(BadInput, match="expected `recipe`"):
        load_matrix(MATRIX, ["recipe="])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("grow", "expected axis=value"),
        ("grw=random", r"unknown name 'grw'; did you mean 'grow'\?"),
        ("lr=0.1", r"unknown name 'lr'; did you mean 'training\.lr'\?"),
        ("schedule.delta_t", "expected axis=value"),
        ("grow.=random", r"unknown name 'grow\.'; did you mean 'grow'"),
        ("training.epoch=5", r"training\.epoch: unknown key; did you mean 'epochs'"),
        ("grow=[", "-S grow="),
    ],
)
def test_wrong_setting(setting, message):
    with pytest.raises(BadInput, match=message):
        load_matrix(MATRIX, [setting])


def test_unknown_suite_names_the_nearest():
    with pytest.raises(
        BadInput, match=r"unknown suite 'quikc', and no such file; did you mean 'quick' or 'quick-text'\?"
    ):
        load_matrix("quikc")
    with pytest.raises(BadInput, match=r"missing\.yaml: can't be read"):
        load_matrix("missing.yaml")


def test_file_and_mapping_agree(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        'schema = 1\nname = "test"\n[axes]\nmodel = "small_cnn"\ndataset = "digits"\n'
        'density = [0.2, 0.1]\nrecipe = ["rigl"]\n[training]\nepochs = 2\n'
    )
    assert load_matrix(path) == load_matrix(MATRIX) == load_matrix(load_matrix(MATRIX))


def test_errors_in_a_file_name_it(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("schema: 1\nname: m\naxes: {model: a, dataset: b, density: 0.1, recipe: rigl}\n")
    with pytest.raises(BadInput, match=r"m\.yaml: training: expected a value, got nothing"):
        load_matrix(path)


@pytest.mark.parametrize("name", ["quick", "cifar10", "cifar100"])
def test_suite_ships_and_states_its_budget(name):
    matrix = load_matrix(name)
    assert name in suites()
    assert matrix.name == name
    assert matrix.budget.tuning != Matrix.model_fields["budget"].default_factory().tuning
    assert {"dense", "static", "small-dense"} <= {c for c in matrix.controls if isinstance(c, str)}


def test_cifar_suites_hold_the_standard_matrix():
    for name in ("cifar10", "cifar100"):
        axes = load_matrix(name).axes
        assert axes.model == ("cifar_resnet_20", "cifar_resnet_32", "wrn-22-2")
        assert axes.density == (0.2, 0.1, 0.05)
        assert len(axes.seed) == 3


def test_defaults_of_training_never_change():
    """They are left out of trial keys: a changed default would give old results a new meaning."""
    assert Training(epochs=1).model_dump() == {
        "epochs": 1, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True,
        "weight_decay": 5e-4, "schedule": "cosine", "step_epochs": 30, "milestones": (), "gamma": 0.1,
        "warmup_epochs": 0, "label_smoothing": 0.0, "mixed_precision": "no", "gradient_accumulation": 1,
        "clip_norm": None, "eval_every": 1, "channels_last": False, "threads": 1, "storage": "masked",
        "processes": 1, "sync_batch_norm": False, "warmup_steps": 0, "min_lr": 0.0, "betas": None, "decay": "all",
    }  # fmt: skip


def test_extended_training_moves_its_milestones():
    plain = Training(epochs=10, schedule="multistep", milestones=(4, 7), step_epochs=3, warmup_epochs=2)
    longer = plain.extended(1.5)
    assert (longer.epochs, longer.milestones, longer.step_epochs) == (15, (6, 10), 4)
    assert longer.warmup_epochs == 2
    assert plain.extended(1) is plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 128, "processes": 3},
            "batch_size: expected a multiple of the 3 processes .* got 128",
        ),
        ({"storage": "compact", "processes": 2}, "storage: 'compact' changes the shapes of parameters"),
        ({"processes": 0}, "processes"),
        ({"processes": True}, "processes"),
        ({"sync_batch_norm": 1}, "sync_batch_norm"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_by_name(settings, message):
    with pytest.raises(BadInput, match=message):
        load_matrix({**MATRIX, "training": {"epochs": 1, **settings}})


@pytest.mark.parametrize("multiplier", [0, -1, True, float("inf"), float("nan")])
def test_multiplier_without_a_length_is_refused(multiplier):
    with pytest.raises(BadInput, match="multiplier: expected a number > 0"):
        Recipe(multiplier=multiplier)


RULES = {
    "axes": {**MATRIX["axes"], "recipe": ["rigl", "set"]},
    "overrides": [
        {"when": {"recipe": "set"}, "set": {"schedule.delta_t": 5}},
        {"when": {"recipe": "rigl", "density": [0.2, 0.1]}, "set": {"training.lr": 0.2}},
    ],
    "exclude": [{"density": 0.1, "recipe": "set"}],
}


def test_narrowing_an_axis_drops_the_rules_for_what_left_it():
    matrix = load_matrix({**MATRIX, **RULES}, ["recipe=rigl", "density=0.2"])
    assert [rule.when for rule in matrix.overrides] == [{"recipe": ["rigl"], "density": [0.2]}]
    assert matrix.exclude == ()
    assert plan(matrix, registry()).trials


def test_narrowing_an_axis_hides_no_typing_error():
    rules = {**RULES, "exclude": [{"recipe": "sett"}]}
    with pytest.raises(BadInput, match="'sett' is not on that axis of the matrix"):
        plan(load_matrix({**MATRIX, **rules}, ["recipe=rigl"]), registry())


def test_what_an_axis_held_without_being_given_is_dropped_too():
    """Beside a product, prune stands at a Recipe's default; who moves it leaves nothing to exclude."""
    axes = {**MATRIX["axes"], "recipe": None, "grow": ["random", "gradient"]}
    document = {**MATRIX, "axes": axes, "exclude": [{"prune": "magnitude", "grow": "random"}]}
    assert len(load_matrix(document).exclude) == 1
    assert load_matrix(document, ["prune=random"]).exclude == ()
