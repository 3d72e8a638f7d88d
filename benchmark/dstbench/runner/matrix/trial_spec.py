"""One trial as a value. It is a mapping only where a record, an observer or a reader wants JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dstbench.recipe import Normal, Recipe, named, parts_of, recipe_of
from dstbench.results.tuning import is_tuning
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.start import Start
from dstbench.runner.matrix.validation import validated


@dataclass(frozen=True)
class TrialSpec:
    """What one trial is: all that its key is made of, and how its speed is measured."""

    model: Normal
    dataset: Normal
    density: float  # of the layers in the budget; 1 for a dense training
    seed: int
    recipe: Recipe  # the components in canonical form
    training: Training  # extended already, where the recipe has a multiplier
    measure: Measure = field(default_factory=Measure)
    evaluated: Literal["test", "validation"] = (
        "test"  # validation: to choose settings by, and never on test data
    )
    start: Start | None = None  # weights before there are masks; None: as the seed initialises them

    @property
    def tunes(self) -> bool:
        """Whether it is there to choose settings by."""
        return self.evaluated == "validation"

    @property
    def components(self) -> dict[str, Normal]:
        """Kind -> component: the model, the data set, and the strategies of a training that has masks."""
        strategies = (
            {} if self.recipe.dense else {kind: named(spec) for kind, spec in parts_of(self.recipe).items()}
        )
        return {"model": self.model, "dataset": self.dataset, **strategies}

    @classmethod
    def from_json(cls, trial: Mapping[str, Any]) -> TrialSpec:
        """The trial of a record; what we don't know is left aside. Raises BadInput for a setting that isn't one."""
        return cls(
            trial["model"],
            trial["dataset"],
            trial["density"],
            trial["seed"],
            recipe_of(trial["recipe"]),
            validated(Training, trial["training"], "training"),
            validated(Measure, trial.get("measure", {}), "measure"),
            "validation" if is_tuning(trial) else "test",
            validated(Start, trial["start"], "start") if trial.get("start") else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As a record holds it: what is at its default is left out."""
        recipe, strategies = self.recipe, self.components
        return {
            "model": strategies.pop("model"),
            "dataset": strategies.pop("dataset"),
            "density": self.density,
            "seed": self.seed,
            "recipe": {
                **({"dense": True} if recipe.dense else {}),
                **({"multiplier": recipe.multiplier} if recipe.multiplier != 1 else {}),
                **({"narrow": True} if recipe.narrow and not recipe.dense else {}),
                **strategies,
                **(
                    {"dense_layers": [*recipe.dense_layers]}
                    if recipe.dense_layers and not recipe.dense
                    else {}
                ),
            },
            "training": self.training.model_dump(mode="json", exclude_defaults=True),
            "measure": self.measure.model_dump(mode="json", exclude_defaults=True),
            **({"evaluated": self.evaluated} if self.tunes else {}),
            **({"start": self.start.model_dump(mode="json", exclude_defaults=True)} if self.start else {}),
        }
