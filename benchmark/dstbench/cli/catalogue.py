"""``dstbench models`` and ``dstbench datasets``: what can be trained, and how large it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dstbench.cli.run import DataRoot
from dstbench.cli.tables import print_rows
from dstbench.errors import BadInput
from dstbench.registration.registry import Component, Registry, registry

_SPLITS = ("train", "validation", "test")
_INPUT, _CLASSES = (3, 224, 224), 10  # where a model was registered without its own

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def models(
    name: Annotated[str | None, typer.Argument(help="Only this one, such as: timm:resnet18")] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Outputs of the classifier; its own, or 10, by default.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Such as 3,32,32, or 64 of tokens; its own by default.")
    ] = None,
    convention: Annotated[
        str, typer.Option(help="Of FLOPs: mac, mac-attention, rigl or rigl-notebook.")
    ] = "mac",
    as_json: Json = False,
) -> None:
    """List the models with their parameters, maskable weights and multiply-accumulates a sample."""
    installed = registry()
    shape = None if input_shape is None else _shape(input_shape)
    names = [name] if name else [model for model in installed["model"] if not model.endswith(":")]
    rows = [model_row(installed, model, num_classes, shape, convention) for model in names]
    counts = ["macs"] if convention == "mac" else ["macs", "flops"]
    print_rows(
        rows, ["name", "parameters", "maskable", *counts, "input_shape", "num_classes"], as_json=as_json
    )
    if not as_json and name is None:
        for family, component in installed["model"].items():
            if component.is_family:
                typer.echo(f"and {family}NAME: {component.summary}")


def model_row(
    installed: Registry,
    name: str,
    num_classes: int | None,
    shape: tuple[int, ...] | None,
    convention: str = "mac",
) -> dict[str, Any]:
    """Build a model and count: parameters, weights that can be masked, MACs and FLOPs of a sample."""
    import torch

    from dstbench.core.cost.cost import cost
    from dstbench.core.network.ownership import owned

    component = installed.resolve("model", name)
    shape = shape or tuple(component.metadata.get("input_shape", _INPUT))
    with torch.random.fork_rng(devices=[]):
        num_classes = num_classes or component.metadata.get("num_classes", _CLASSES)
        model = installed.build("model", name)(num_classes=num_classes, input_shape=shape)
    totals = cost(model, None, shape, convention)
    return {
        "name": name,
        "parameters": totals.parameters,
        "maskable": sum(layer.info.numel for layer in owned(model).sparse.values()),
        "macs": totals.macs,
        "flops": int(totals.inference_flops),
        "convention": convention,
        "input_shape": list(shape),
        "num_classes": num_classes,
        "distribution": component.distribution,
        "summary": component.summary,
    }


def datasets(
    name: Annotated[
        str | None,
        typer.Argument(help="Load this one, to count its samples: a name, or {name: folder, root: photos}."),
    ] = None,
    data_root: DataRoot = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch missing data into --data-root.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the data sets; with a name, load it and count the samples of each split."""
    installed = registry()
    if name is None:
        rows = [_dataset_row(dataset, component) for dataset, component in installed["dataset"].items()]
        if not as_json:
            rows = [{**row, "presets": ", ".join(row["presets"]) or None} for row in rows]
        columns = ["name", "input_shape", "num_classes", *_SPLITS, "presets", "summary"]
        print_rows(rows, columns, as_json=as_json)
        return
    from dstbench.recipe import named
    from dstbench.runner.matrix.yaml import parse_yaml
    from dstbench.runner.trial.blueprint import load_data

    spec = parse_yaml(name, "dataset") if name.lstrip().startswith("{") else name
    component = installed.resolve("dataset", named(spec)["name"])
    data = load_data(installed, spec, data_root, download)
    sizes = {split: len(getattr(data, split)) for split in _SPLITS}
    row = _dataset_row(name, component)
    row |= {"input_shape": list(data.input_shape), "num_classes": data.num_classes, **sizes}
    print_rows([row], ["name", "input_shape", "num_classes", *sizes], as_json=as_json)


def _dataset_row(name: str, component: Component) -> dict[str, Any]:
    said = component.metadata
    return {
        "name": name,
        "input_shape": list(said["input_shape"]) if "input_shape" in said else None,
        "num_classes": said.get("num_classes"),
        **{split: said.get(f"{split}_images") for split in _SPLITS},
        "presets": list(said.get("presets", ())),
        "revision": said.get("revision"),
        "distribution": component.distribution,
        "summary": component.summary,
    }


def _shape(text: str) -> tuple[int, ...]:
    """Parse channels, height, width, or a number of tokens. Raises BadInput."""
    parts = text.replace("x", ",").split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise BadInput(
            f"--input-shape: expected channels,height,width such as 3,32,32, or tokens, got {text!r}"
        )
    return tuple(int(part) for part in parts)
