"""The matrix file as a frozen value: every key known, every number in range, before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from dstbench.errors import BadInput, nearest
from dstbench.recipe import named
from dstbench.results.labels import value_text
from dstbench.results.printable import shown
from dstbench.results.tuning import Scalar
from dstbench.runner.matrix.axes import AXES, CONTROLS, Axes, Seed, Spec, check_finite
from dstbench.runner.matrix.matching import listed, listed_or_none
from dstbench.runner.matrix.overrides import apply_settings
from dstbench.runner.matrix.quantities import bytes_of, seconds
from dstbench.runner.matrix.start import Start, written
from dstbench.runner.matrix.validation import Frozen, unusable, validated
from dstbench.runner.matrix.yaml import read_document

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
"""Built from torch.optim; any other name is timm's."""
LR_SCHEDULES = ("cosine", "linear", "step", "multistep", "constant")
"""Built in; any other name is timm's."""


MOST_EPOCHS = 1_000_000
MOST_IMAGES = 1_000_000
"""Of one batch."""
MOST_STEPS = 10**9
LARGEST = 1e6
"""Of learning rates, weight decay and the like: what is larger is a typing error."""
YEAR = 366 * 24 * 3600
RULES = Field(default=(), max_length=1_000)
"""Every cell is held against every one of them."""

Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]
Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
Where = dict[str, Any]


class Training(Frozen):
    """How every trial trains. Defaults are left out of a trial's key, so adding a setting renames no result;
    for the same reason a default here must never change."""

    epochs: Epochs
    batch_size: int = Field(default=128, ge=1, le=MOST_IMAGES)
    optimizer: str = "sgd"  # sgd, adam, adamw, rmsprop, or any of timm's
    lr: float = Field(default=0.1, gt=0, le=LARGEST)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0, le=LARGEST)
    schedule: str = "cosine"  # cosine, linear, step, multistep, constant, or any of timm's; counted in epochs
    min_lr: float = Field(default=0.0, ge=0, le=LARGEST)  # where cosine and linear end
    step_epochs: Epochs = 30  # schedule step: multiply lr by gamma every so many epochs
    milestones: Annotated[
        tuple[Annotated[int, Field(le=MOST_EPOCHS)], ...], BeforeValidator(listed)
    ] = ()  # schedule multistep: at these epochs
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup_epochs: int = Field(default=0, ge=0, le=MOST_EPOCHS)
    warmup_steps: int = Field(default=0, ge=0, le=MOST_STEPS)  # step k has lr (k + 1) / (steps + 1)
    betas: Annotated[Betas | None, BeforeValidator(listed_or_none)] = (
        None  # of adam and adamw; None: (0.9, 0.999)
    )
    decay: Literal["all", "matrices"] = "all"  # matrices: two dimensions or more
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_accumulation: int = Field(default=1, ge=1, le=10_000)  # batches of batch_size per applied step
    clip_norm: float | None = Field(default=None, gt=0, le=1e9)
    eval_every: Epochs = 1  # epochs between evaluations on the validation split
    channels_last: bool = False  # memory format of images and convolutions: often faster, same function
    threads: int = Field(
        default=1, ge=1, le=1024
    )  # that compute on the CPU: sums add up in another order with another number
    storage: Literal["masked", "condensed", "compact"] = "masked"  # what parameters hold: see Sparsifier
    processes: int = Field(default=1, ge=1, le=4096)  # that train together, each on its part of every batch
    sync_batch_norm: bool = False  # norms of the whole batch, not of each process's part

    @field_validator("sync_batch_norm")
    @classmethod
    def _nothing_to_synchronise(cls, wanted: bool, info: ValidationInfo) -> bool:
        """One process has the whole batch: the same trial, under the same key."""
        return wanted and info.data.get("processes") != 1

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size: expected a multiple of the {self.processes} processes that share each batch, "
                f"got {self.batch_size}"
            )
        if self.storage == "compact" and self.processes > 1:
            raise ValueError(
                "storage: 'compact' changes the shapes of parameters, which several processes can't follow; "
                "use 'masked' or 'condensed'"
            )
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("warmup_steps: a warm-up is given in steps or in epochs, got both")
        if self.warmup_steps and self.schedule not in LR_SCHEDULES:
            raise ValueError(f"warmup_steps: timm's schedule {self.schedule!r} takes warmup_epochs alone")
        if self.min_lr and self.schedule not in ("cosine", "linear"):
            raise ValueError(
                f"min_lr: only schedules 'cosine' and 'linear' end at one, got {self.schedule!r}"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: expected at most lr, {self.lr:g}, got {self.min_lr:g}")
        if self.betas is not None and self.optimizer not in ("adam", "adamw"):
            raise ValueError(f"betas: adam and adamw have some, {self.optimizer!r} doesn't")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("schedule multistep needs `milestones`")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: expected increasing epochs, got {list(self.milestones)}")
        return self

    def extended(self, multiplier: float) -> Training:
        """The same training, longer: epochs and learning-rate milestones times ``multiplier``, to whole epochs.
        The warm-up keeps its length."""
        if multiplier == 1:
            return self
        if self.epochs * multiplier > MOST_EPOCHS:
            raise BadInput(
                f"multiplier: expected at most {MOST_EPOCHS:,} epochs, got {self.epochs} x {multiplier:g}"
            )
        scaled: dict[str, Any] = {
            "epochs": max(1, round(self.epochs * multiplier)),
            "step_epochs": max(1, round(self.step_epochs * multiplier)),
            "milestones": tuple(round(epoch * multiplier) for epoch in self.milestones),
        }
        return self.model_copy(update=scaled)


OnError = Literal["continue", "stop"]


class Measure(Frozen):
    """What is timed once a trial is trained."""

    throughput: bool = True
    batch_size: int | None = Field(default=None, ge=1, le=MOST_IMAGES)  # None: the training batch size
    rounds: int = Field(default=5, ge=1, le=10_000)  # each times dense and sparse, one after the other
    warmup: int = Field(default=2, ge=0, le=10_000)
    compile: str | None = None  # torch.compile's mode, of both; None: not compiled


class Budget(Frozen):
    """What a trial may cost, and what was spent on choosing its settings. Not part of a trial's key."""

    trial_seconds: Annotated[float | None, BeforeValidator(seconds)] = Field(
        default=None, gt=0, le=YEAR
    )  # of wall clock, or "2h"
    trial_memory: Annotated[int | None, BeforeValidator(bytes_of)] = Field(
        default=None, ge=2**20, le=2**50
    )  # bytes, or "8G", that the processes of a trial hold
    tuning: str = "none: every method runs with the settings given here"


Grid = dict[str, tuple[Scalar, ...]]
"""Setting of the training -> the values that are tried of it."""
Scalars = Annotated[tuple[Any, ...], BeforeValidator(listed), Field(min_length=1, max_length=100)]


class Tune(Frozen):
    """Settings of the training that are chosen on validation data before the seeds run, with the same budget for
    every method and control: ``{lr: [0.1, 0.03, 0.01]}``. Never part of a key: what was chosen is."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalars] = Field(init=False)

    seeds: Annotated[tuple[Seed, ...] | None, BeforeValidator(listed_or_none)] = Field(
        default=None, alias="seed", min_length=1
    )  # that tune, or `seeds`; None: the first of the matrix
    per: Annotated[tuple[Literal["method", "density", "model", "dataset"], ...], BeforeValidator(listed)] = (
        "method",
        "density",
    )  # each has a choice of its own; each model and data set always has

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, said: Any) -> Any:
        if not isinstance(said, Mapping):
            raise ValueError("expected settings with the values to try, such as `{lr: [0.1, 0.03, 0.01]}`")
        if "seeds" not in said:
            return said
        if "seed" in said:
            raise ValueError("expected `seed` or `seeds`, got both")
        return {"seed" if name == "seeds" else name: value for name, value in said.items()}

    @model_validator(mode="after")
    def _is_grid(self) -> Tune:
        if not self.grid:
            raise ValueError("expected a setting of the training to tune, such as `lr: [0.1, 0.03, 0.01]`")
        for name, values in self.grid.items():
            if name in Training.model_fields and name not in TUNABLE:
                raise ValueError(f"{name}: has several values, and can't be tuned")
            if name not in TUNABLE:
                raise ValueError(f"{name}: unknown setting of the training{nearest(name, TUNABLE)}")
            for value in values:
                if not isinstance(value, str | int | float | None):
                    raise ValueError(f"{name}: expected numbers, texts or truth values, got {shown(value)}")
            check_finite(values, name)
            if twice := next((value for i, value in enumerate(values) if value in values[:i]), None):
                raise ValueError(f"{name}: {shown(twice)} is there twice")
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected different ones, got {list(self.seeds)}")
        return self

    @property
    def grid(self) -> Grid:
        """The settings with the values that are tried, all combinations of them."""
        return dict(self.__pydantic_extra__ or {})


TUNABLE = tuple(name for name in Training.model_fields if name not in ("milestones", "betas"))
"""The settings that are one value."""


class Override(Frozen):
    """Settings that some cells need: ``{when: {model: vgg}, set: {training.lr: 0.05}}``."""

    when: Where
    set: dict[str, Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _finite(self) -> Override:
        check_finite(self.set)
        return self


class Matrix(Frozen):
    """A whole matrix file."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(min_length=1, max_length=200)
    summary: str = ""
    axes: Axes
    controls: Annotated[tuple[Spec, ...], BeforeValidator(listed)] = CONTROLS
    training: Training
    start: Annotated[Start | None, BeforeValidator(written)] = None  # weights before masks; None: fresh ones
    dense_layers: Names = ()  # glob patterns: layers left out of the budget
    measure: Measure = Field(default_factory=Measure)
    budget: Budget = Field(default_factory=Budget)
    tune: Tune | None = None  # settings that are chosen on validation data first
    executor: Spec = "local"  # what runs the trials, with its parameters: never part of a key
    on_error: OnError = "continue"  # or "stop": no trial is started after one that fails. Not part of a key
    include: Annotated[tuple[Where, ...], BeforeValidator(listed)] = RULES
    exclude: Annotated[tuple[Where, ...], BeforeValidator(listed)] = RULES
    overrides: Annotated[tuple[Override, ...], BeforeValidator(listed)] = RULES

    @model_validator(mode="after")
    def _known_axes(self) -> Matrix:
        for path, where in self.conditions:
            for axis in where:
                if axis not in AXES:
                    raise ValueError(f"{path}: unknown axis {axis!r}{nearest(axis, AXES)}")
        return self

    @model_validator(mode="after")
    def _tuned_or_set(self) -> Matrix:
        for i, override in enumerate(self.overrides):
            for name in override.set:
                if self.tune and name.removeprefix("training.") in self.tune.grid:
                    raise ValueError(
                        f"overrides[{i}].set: {name} is tuned for every method alike, and can't be set for some"
                    )
        return self

    @property
    def tuning(self) -> str:
        """What was spent on choosing settings, for people; what the budget says of other settings goes with it."""
        own = self.budget.tuning
        if self.tune is None:
            return own
        values = [f"{name} of {', '.join(map(value_text, them))}" for name, them in self.tune.grid.items()]
        per = [name for name in self.tune.per if name in ("method", "density")]
        seeds = self.tuning_seeds
        said = (
            f"{' x '.join(values)}, on validation data of seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}, for each {', '.join(('model', 'data set', *per))}, controls included"
        )
        return said if own.startswith("none") else f"{said}; {own}"

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """The seeds whose trainings choose settings."""
        return (self.tune and self.tune.seeds) or self.axes.seed[:1]

    @property
    def conditions(self) -> list[tuple[str, Where]]:
        """Every partial match, with its place in the file."""
        return [
            *((f"include[{i}]", where) for i, where in enumerate(self.include)),
            *((f"exclude[{i}]", where) for i, where in enumerate(self.exclude)),
            *((f"overrides[{i}].when", override.when) for i, override in enumerate(self.overrides)),
        ]


def executor_of(matrix: Matrix, given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The spec of the executor of a run: the matrix's, unless another is given; parameters alone change those of the
    matrix's."""
    own = named(matrix.executor)
    changes = {} if given is None else {"name": given} if isinstance(given, str) else dict(given)
    return {**own, **changes} if changes.get("name", own["name"]) == own["name"] else changes


def suites() -> dict[str, Path]:
    """The suites that ship: name -> file."""
    folder = Path(str(resources.files("dstbench"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_matrix(source: str | Path | Mapping[str, Any] | Matrix, settings: Sequence[str] = ()) -> Matrix:
    """A suite by name, a matrix file by path, or a mapping, with ``axis=value`` settings applied.

    Raises BadInput: an unknown suite, an unreadable file, or every field that is wrong.
    """
    if isinstance(source, Matrix):
        source = source.model_dump(by_alias=True, exclude_unset=True)
    document, where = (source, "matrix") if isinstance(source, Mapping) else _read(source)
    _check(document, where)
    known = [f"training.{name}" for name in Training.model_fields]
    applied = apply_settings(document, settings, known)
    _check(applied, where)
    return validated(Matrix, applied, where)


def _check(document: Mapping[str, Any], where: str) -> None:
    if wrong := unusable(document):
        raise BadInput(f"{where}: {wrong}")


def _read(source: str | Path) -> tuple[dict[str, Any], str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml", ".toml") or os.path.isfile(path):  # noqa: PTH113 (raises for no name)
        return read_document(path), str(path)
    known = suites()
    if str(source) not in known:
        raise BadInput(f"unknown suite {shown(str(source))}, and no such file{nearest(str(source), known)}")
    return read_document(known[str(source)]), f"suite {source}"
