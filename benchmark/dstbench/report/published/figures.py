"""Published figures: one file a source table under ``dstbench/published``, each with where it was read and how.

A figure is what the source prints. What the source doesn't say is missing here, never guessed; what is wrong
in the source stays as printed and has a footnote.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dstbench.errors import BadInput, nearest
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.validation import Frozen, validated
from dstbench.runner.matrix.yaml import read_document

Grade = Literal[
    "read in the paper",
    "from the authors' repository",
    "said by an author in an issue",
    "as quoted by a later report",
    "digitised from a figure",
]
"""How a figure got here, from the surest on."""

METRICS = ("top1", "perplexity", "bleu")
"""What a figure may be of."""

Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list | tuple) else (value,)),
]
Ratio = Annotated[float, Field(gt=0, le=10)]


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    unknown = settings.keys() - Training.model_fields.keys()
    if unknown:
        raise ValueError(f"expected names of training settings, got {', '.join(sorted(unknown))}")
    return settings


class Figure(Frozen):
    """One row of a source table, of one metric; only top-1 is set beside ours. FLOPs are ratios to the source's own
    dense network, by its own counting.
    """

    method: str = Field(min_length=1)  # as the source calls it
    recipe: str | None = None  # our label of the same method; None where we have none
    density: float | None = Field(default=None, gt=0, le=1)  # None: the source gives none
    top1: float | None = Field(default=None, gt=0, lt=100)  # percent
    perplexity: float | None = Field(default=None, gt=1)  # of validation tokens, as the source averages them
    bleu: float | None = Field(default=None, gt=0, lt=100)
    sd: float | None = Field(default=None, ge=0)  # standard deviation over runs, percent points
    se: float | None = Field(default=None, ge=0)  # standard error of the mean, percent points
    ci: float | None = Field(default=None, ge=0)  # half of a 95 % interval, percent points
    error: float | None = Field(default=None, gt=0)  # of reading it off a chart, percent points
    seeds: int | None = Field(default=None, ge=1)
    r_s: float | None = Field(default=None, gt=0, le=1)
    train_flops: Ratio | None = None
    infer_flops: Ratio | None = None
    hardware_flops: Ratio | None = None
    latency_ms: float | None = Field(default=None, gt=0)
    images_per_second: float | None = Field(default=None, gt=0)
    footnotes: Names = ()
    copied_from: str | None = (
        None  # the table whose figure this source repeats: listed, never set beside ours
    )

    @model_validator(mode="after")
    def _one_metric(self) -> Figure:
        given = [name for name in METRICS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(METRICS)}, got {', '.join(given) or 'none'}")
        return self

    @property
    def percent(self) -> float:
        """Top-1, of a figure that is one."""
        assert self.top1 is not None
        return self.top1

    @property
    def spread(self) -> str:
        """How far the figure is certain: ``sd 0.39``, or nothing."""
        known = (("sd", self.sd), ("se", self.se), ("95 % ±", self.ci), ("read to ±", self.error))
        return ", ".join(f"{name} {value:g}".replace("± ", "±") for name, value in known if value is not None)


class Table(Frozen):
    """One table of one source, with what its figures have in common."""

    cite: str = Field(min_length=1)
    title: str = Field(min_length=1)
    arxiv: str | None = Field(default=None, pattern=r"^\d{4}\.\d{5}$")
    link: str | None = Field(
        default=None, pattern=r"^https://\S+$"
    )  # where there is no arXiv id, or besides it
    where: str = Field(min_length=1)
    grade: Grade
    model: Names  # ours: the source's network, or where it doesn't say which, every one that it may be
    dataset: str
    training: Annotated[dict[str, Any], AfterValidator(_known_settings)] = Field(default_factory=dict)
    notes: Names = ()  # on all figures
    footnotes: dict[str, str] = Field(default_factory=dict)  # on some
    figures: tuple[Figure, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        """YAML has lists, a frozen model tuples."""
        listed = isinstance(value, dict) and isinstance(value.get("figures"), list)
        return {**value, "figures": tuple(value["figures"])} if listed else value

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        used = {name for figure in self.figures for name in figure.footnotes}
        if used != self.footnotes.keys():
            wrong = ", ".join(sorted(used ^ self.footnotes.keys()))
            raise ValueError(f"footnotes: expected each to be given once and used, got {wrong}")
        if not (self.arxiv or self.link):
            raise ValueError("arxiv: expected an arXiv id, or a link in its place, got neither")
        return self

    @property
    def address(self) -> str:
        """Where the source is."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else str(self.link)

    @property
    def places(self) -> tuple[str, ...]:
        """All its addresses: of the paper, of the repository."""
        return (self.address, self.link) if self.arxiv and self.link else (self.address,)

    @property
    def source(self) -> str:
        """The source in one line, without its address."""
        return f"{self.cite}, {self.where}" + (f", arXiv {self.arxiv}" if self.arxiv else "")


@cache
def published_tables() -> dict[str, Table]:
    """Every table that ships, by the name of its file. Raises BadInput where a file is wrong."""
    folder = Path(str(resources.files("dstbench"))) / "published"
    return {path.stem: load_table(path) for path in sorted(folder.glob("*.yaml"))}


def load_table(path: Path) -> Table:
    """One file. Raises BadInput that names the file and the field."""
    return validated(Table, read_document(path), path.name)


def figures(
    model: str | None = None, dataset: str | None = None, method: str | None = None
) -> Iterator[tuple[str, Table, Figure]]:
    """(table's name, table, figure) of a model and a data set; ``method`` is part of a name, in any case."""
    wanted = (method or "").lower()
    for name, table in published_tables().items():
        if (model is not None and model not in table.model) or dataset not in (None, table.dataset):
            continue
        for figure in table.figures:
            if wanted in figure.method.lower() or wanted in (figure.recipe or ""):
                yield name, table, figure


def require_known(name: str, value: str | None) -> None:
    """Refuse a ``model`` or ``dataset`` of which nothing is published here. Raises BadInput."""
    tables = published_tables().values()
    known = {table.dataset for table in tables} if name == "dataset" else {m for t in tables for m in t.model}
    if value is not None and value not in known:
        raise BadInput(f"--{name}: nothing is published here for {value!r}{nearest(value, known)}")
