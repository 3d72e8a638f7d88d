"""A submission as a model of the Hugging Face Hub: card, weights, record, and results as the Hub gathers them."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dstbench import __version__
from dstbench.errors import BadInput
from dstbench.hookspecs import PARTS
from dstbench.recipe import named
from dstbench.results.curve_file import CURVE
from dstbench.results.files import make_folder, write_all
from dstbench.results.labels import spec_text
from dstbench.results.measure_table import MEASURES
from dstbench.results.ranking import TOP1, ranking_of
from dstbench.results.record import FILE, Record, read_trial
from dstbench.results.tuning import is_tuning
from dstbench.runner.submission import weights

_TARGET = re.compile(r"hf://(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_PACKAGE = "huggingface_hub"
TASKS = {"classification": "image-classification", "next_token": "text-generation"}
"""What the Hub calls tasks; others keep their own names."""
_HUB_DATA = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist",
             "fashion-mnist": "zalando-datasets/fashion_mnist", "tiny-imagenet": "zh-plus/tiny-imagenet",
             "imagenet": "ILSVRC/imagenet-1k"}  # fmt: skip


def write_model(submission: Path, target: str, out: Path, benchmark: str | None = None) -> list[Path]:
    """Write the files of the model repository ``hf://owner/name`` into ``out``; nothing is uploaded.

    benchmark: the Hub data set whose leaderboard gathers ``.eval_results/*.yaml``; without it there is no such file.
    Raises BadInput for what is no submission, and for an address that is none.
    """
    repo = repository(target)
    record = read_trial(submission)
    if not isinstance(record, dict) or record["status"] != "ok":
        raise BadInput(f"FOLDER: expected a submission's folder, got {submission}: {_why(record)}")
    if is_tuning(record["trial"]):
        raise BadInput(f"FOLDER: {submission} was there to choose settings by: it has no figure of test data")
    if not (submission / weights.FILE).is_file():
        raise BadInput(f"FOLDER: {submission} has no {weights.FILE}: `dstbench results submit` makes it")
    _need_hub()
    make_folder(out)
    for name in (weights.FILE, FILE, CURVE):
        if (source := submission / name).is_file() and not source.is_symlink():
            shutil.copyfile(source, out / name)
    write_all(out, {"README.md": _card(record, repo)})
    if benchmark is not None:
        _check_benchmark(benchmark)
        write_all(out / ".eval_results", {"dstbench.yaml": _results(record, benchmark, repo)})
    return sorted(file for file in out.rglob("*") if file.is_file())


def upload(folder: Path, target: str) -> str:
    """Create the repository where it isn't there, upload the folder, and return its address."""
    _need_hub()
    from huggingface_hub import HfApi

    api, repo = HfApi(), repository(target)
    api.create_repo(repo, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A result of dstbench"))


def repository(target: str) -> str:
    """``owner/name`` of ``hf://owner/name``. Raises BadInput for anything else."""
    if not (matched := _TARGET.fullmatch(target)) or ".." in target or "--" in target:
        raise BadInput(f"hf://OWNER/NAME: expected an address such as hf://me/rigl-cifar10, got {target!r}")
    return matched["repo"]


def _why(record: Any) -> str:
    return f"its trial is {record['status']}" if isinstance(record, dict) else record.reason


def _need_hub() -> None:
    if find_spec(_PACKAGE) is None:
        raise BadInput(f"push needs {_PACKAGE}: pip install 'dstbench[hub]'")


def _check_benchmark(name: str) -> None:
    if not _TARGET.fullmatch(f"hf://{name}"):
        raise BadInput(f"--benchmark: expected a Hub data set such as me/dstbench, got {name!r}")


def _card(record: Record, repo: str) -> str:
    """The model card, with its metadata as the Hub reads it."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    trial, measures = record["trial"], record["measures"]
    dataset, model = str(trial["dataset"]["name"]), spec_text(trial["model"])
    ranking, asked = ranking_of(measures), str(measures.get("task") or "classification")
    task = TASKS.get(asked, asked)
    result = EvalResult(
        task_type=task,
        dataset_type=_HUB_DATA.get(dataset, dataset),
        dataset_name=spec_text(trial["dataset"]),
        metric_type="accuracy" if ranking is TOP1 else ranking.key,
        metric_value=round(measures["top1"] / 100 if ranking is TOP1 else measures["score"], 6),
        metric_name="top-1" if ranking is TOP1 else ranking.title,
        dataset_split="test",
    )
    data = ModelCardData(
        model_name=repo.partition("/")[2],
        library_name="dstbench",
        pipeline_tag=task,
        tags=["dstbench", "sparsity", "dynamic-sparse-training", *_methods(record)],
        datasets=[_HUB_DATA[dataset]] if dataset in _HUB_DATA else None,
        metrics=["accuracy" if ranking is TOP1 else ranking.key],
        eval_results=[result],
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(record, model)}"))


def _methods(record: Record) -> list[str]:
    recipe = record["trial"]["recipe"]
    return [
        f"{kind}:{re.sub(r'[^a-z0-9._-]', '-', str(named(recipe[kind])['name']).lower())}"
        for kind in PARTS
        if recipe.get(kind)
    ]


def _text(record: Record, model: str) -> str:
    """What the card says. Texts of records stand in code spans, where no markup of theirs acts."""
    trial, measures = record["trial"], record["measures"]
    ranking = ranking_of(measures)
    figures = {
        "model": model,
        "data set": spec_text(trial["dataset"]),
        "method": record["label"],
        "density": f"{measures.get('density', trial['density']):.4g}",
        "seed": trial["seed"],
        f"{ranking.title}, test": f"{measures['top1']:.2f}"
        if ranking is TOP1
        else f"{measures['score']:.4f} ({ranking.direction})",
        "training FLOPs against dense": measures.get("training_flops_ratio"),
        "inference FLOPs against dense": measures.get("inference_flops_ratio"),
        "active parameters": measures.get("active_parameters"),
        "data (sha256)": record["provenance"].get("dataset_fingerprint"),
        "key": record["key"],
    }
    rows = [f"| {name} | {_code(value)} |" for name, value in figures.items() if value is not None]
    return "\n".join(
        [
            f"# {_code(record['label'])}: {_code(model)} on {_code(spec_text(trial['dataset']))}",
            "",
            "Trained sparse and measured by dstbench, the benchmark for dynamic sparse training.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            f"`{weights.FILE}` holds the active weights and where they stand, `{FILE}` the record.",
            "To check it, with the three files in a folder named by the key:",
            "",
            "```bash",
            "dstbench results verify FOLDER --replay 200",
            "```",
            "",
            "As dense tensors:",
            "",
            "```python",
            "import dstbench",
            "",
            f'state = dstbench.load_export("{weights.FILE}")',
            "```",
            "",
        ]
    )


def _code(value: Any) -> str:
    """A value in a code span of one line; a figure by four digits."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"`{re.sub(r'[`|]|[^ -~·×µλζ]', '?', text)}`"


def _results(record: Record, benchmark: str, repo: str) -> str:
    """``.eval_results``: what the Hub's benchmark boards gather."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    trial = record["trial"]
    task = re.sub(r"[^a-z0-9_]+", "_", f"{trial['model']['name']}_{trial['dataset']['name']}".lower())
    entry = EvalResultEntry(
        dataset_id=benchmark,
        task_id=task,
        value=round(MEASURES["score"].value(record["measures"]), 4),
        date=record["provenance"].get("finished"),
        source_url=f"https://huggingface.co/{repo}/blob/main/{FILE}",
        source_name="dstbench record",
        notes=f"density {trial['density']:g}, seed {trial['seed']}, dstbench {__version__}, key {record['key'][:12]}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
