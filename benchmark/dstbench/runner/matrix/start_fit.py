"""Whether weights fit a network: entry by entry, by name and shape, before anything is trained or even fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.errors import BadInput, in_a_line
from dstbench.runner.matrix.start import Shapes, Start, entries_of, is_timm, located, timm_weights

if TYPE_CHECKING:
    from torch import nn

_SHOWN = 5  # of the entries that don't fit, by name


@dataclass(frozen=True)
class Needed:
    """The entries of a network that weights are to fill."""

    shapes: Shapes
    head: frozenset[str]  # those of its classifier
    tied: Mapping[str, str]  # an entry that is another one by a second name -> that one


def misfits(given: Shapes, needed: Needed, head: str) -> tuple[str, ...]:
    """What doesn't fit, by entry. The classifier's don't count where it stays fresh, nor do the counters of norms,
    which old files lack."""
    skipped: Collection[str] = needed.head if head == "fresh" else ()
    lines = []
    for name, shape in needed.shapes.items():
        if name in skipped:
            continue
        if name in given and given[name] != shape:
            lines.append(f"{name} is {list(shape)} in the network, {list(given[name])} in the file")
        elif (
            name not in given
            and not name.endswith("num_batches_tracked")
            and not _is_tied(name, given, needed)
        ):
            lines.append(f"{name} isn't in the file")
    return (*lines, *(f"{name} isn't in the network" for name in given if name not in needed.shapes))


def _is_tied(name: str, given: Shapes, needed: Needed) -> bool:
    """Whether a file has an entry under another name of the same tensor."""
    first = needed.tied.get(name, name)
    return any(one in given for one in (first, *(n for n, other in needed.tied.items() if other == first)))


def check_fit(given: Shapes, needed: Needed, start: Start, network: str) -> None:
    """Raise BadInput, naming the entries that don't fit, and ``head: fresh`` where that would do."""
    if start.head == "fresh" and not needed.head:
        raise BadInput(f"start.head: {network} has no classifier to make anew")
    if start.head == "fresh" and (shared := sorted(needed.head & {*needed.tied, *needed.tied.values()})):
        raise BadInput(
            f"start.head: {shared[0]} of {network} is also another layer's: it can't stay fresh alone"
        )
    if not (lines := misfits(given, needed, start.head)):
        return
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    fresh = needed.head and not misfits(given, needed, "fresh")
    hint = "; `head: fresh` makes a new classifier" if fresh else ""
    raise BadInput(
        f"start: {start.source} isn't of {network}: {'; '.join(lines[:_SHOWN])}{more} "
        f"({len(lines)} entries don't fit){hint}"
    )


def needed_by(model: nn.Module) -> Needed:
    """The entries of a network's state dict."""
    from dstbench.core.network.layers import maskable_layers

    state = model.state_dict(keep_vars=True)
    heads = [layer.parameter for layer in maskable_layers(model).values() if layer.info.classifier]
    beside = tuple(f"{name.rpartition('.')[0]}." for name in heads)
    first: dict[int, str] = {}
    tied = {
        name: first[id(value)] for name, value in state.items() if first.setdefault(id(value), name) != name
    }
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return Needed(shapes, frozenset(name for name in shapes if beside and name.startswith(beside)), tied)


def entries_ahead(start: Start, input_shape: tuple[int, ...]) -> Shapes | None:
    """The entries that a start has, as far as that is known without fetching anything: None where it isn't."""
    if start.path is not None:
        return entries_of(located(start.path))
    return needed_by(timm_network(start, input_shape)).shapes if is_timm(start.name) else None


def timm_network(start: Start, input_shape: tuple[int, ...], file: Path | None = None) -> nn.Module:
    """timm's network for these images, with the classifier that its weights have; with the weights, where a file has
    them. Position embeddings and first convolutions are timm's, made to fit other images.

    Raises BadInput where timm can't build it for them, or can't load that file.
    """
    import timm
    import torch

    known = timm_weights(str(start.name))
    options: dict[str, Any] = {"num_classes": known.classes, "in_chans": input_shape[0]}
    if file is not None:
        overlay = {"file": str(file), "custom_load": False}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}

    def created(**size: Any) -> nn.Module:
        with torch.device("meta" if file is None else "cpu"):
            return timm.create_model(known.name, **options, **size)

    try:
        try:
            return created(img_size=tuple(input_shape[1:]))
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return created()
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"start: {start.source} can't be made for images of {list(input_shape)}: {in_a_line(error)}"
        ) from error
