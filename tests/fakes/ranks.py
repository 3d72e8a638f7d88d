"""What each of two processes does in the tests of distributed training. ``rank`` None: alone, on both's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dstbench
from dstbench.api import Policy, StrategyError
from dstbench.core.storage import fastest
from fakes.engine import batches, conv_net, mlp, recipe, sgd
from fakes.executions import Offering


def _train(
    rank: int | None,
    parts: dict[str, Any],
    *,
    net: Any = mlp,
    shape: tuple[int, ...] = (8, 12),
    density: float = 0.2,
    wrap: bool = True,
    own_weights: bool = True,
    seed: int = 0,
    steps: int = 10,
    **options: Any,
) -> dict[str, Any]:
    """Ten steps with an update at every second one; ranks see data, weights and global seeds of their own."""
    torch.manual_seed(1000 + (rank or 0))
    model = net(rank or 0) if own_weights else net()
    parts = parts if "name" in parts else recipe("constant", 2) | parts
    optimizer = sgd(model, lr=0.1)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, recipe=parts, density=density, total_steps=steps + 1, seed=seed, **options
    )
    run = DistributedDataParallel(model) if wrap and rank is not None else model
    masks = [{name: mask.clone() for name, mask in sparsifier.masks.items()}]
    for pair in zip(batches(steps, shape, seed=1), batches(steps, shape, seed=2), strict=True):
        images, labels = (
            (torch.cat(parts) for parts in zip(*pair, strict=True)) if rank is None else pair[rank]
        )
        nn.functional.cross_entropy(run(images), labels).backward()
        sparsifier.step()
        optimizer.zero_grad()
        if sparsifier.history and sparsifier.history[-1].step == sparsifier.steps:
            masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
    return {
        "masks": masks,
        "weights": [parameter.detach().clone() for parameter in model.parameters()],
        "budgets": sparsifier.budget,
        "grown": sum(report.grown for report in sparsifier.history),
    }


def random(rank: int) -> dict[str, Any]:
    return _train(rank, {})


def gradient(rank: int) -> dict[str, Any]:
    return _train(rank, {"grow": {"name": "gradient", "share": "global"}})


def momentum(rank: int) -> dict[str, Any]:
    return _train(rank, {"grow": {"name": "momentum", "share": "momentum"}, "prune": "mest"})


def shared_by_weights(rank: int) -> dict[str, Any]:
    """Budgets that initial weights decide, which differ between ranks until they are wrapped."""
    return _train(rank, {"init": {"name": "magnitude", "share": "global"}, "grow": "gradient"})


def saliency(rank: int) -> dict[str, Any]:
    """Dense until the first step, whose gradients decide."""
    return _train(rank, {"init": "snip", "grow": "gradient"})


def channel(rank: int) -> dict[str, Any]:
    parts = {"structure": "channel", "grow": "gradient"}
    return _train(rank, parts, net=conv_net, shape=(8, 3, 8, 8), density=0.4)


def condensed(rank: int) -> dict[str, Any]:
    """Rank 1 measures masked dense to be faster, and runs as rank 0 does."""
    fastest.speedup = lambda *_: 2.0 if rank == 0 else 0.5
    parts = {"structure": Offering(), "grow": "gradient"}
    return _train(rank, parts, storage="condensed", example_input=torch.zeros(8, 12))


def condensed_alone(rank: int | None) -> dict[str, Any]:
    """From equal weights, as ``joined``."""
    fastest.speedup = lambda *_: 2.0
    parts = {"structure": Offering(), "grow": "gradient"}
    return _train(rank, parts, own_weights=False, storage="condensed", example_input=torch.zeros(8, 12))


def joined(rank: int | None) -> dict[str, Any]:
    """From equal weights: two ranks, or one process on both ranks' batches."""
    return _train(rank, {"grow": "gradient"}, own_weights=False)


def without_ddp(rank: int) -> dict[str, Any]:
    """One layer with planted gradients: the ranks disagree about some positions and agree about others."""
    model = nn.Linear(10, 4, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    sparsifier = dstbench.Sparsifier(
        model,
        sgd(model, lr=0.0),
        recipe=recipe("constant", 1, grow="gradient"),
        density=0.25,
        total_steps=5,
    )
    free = (~sparsifier.masks["weight"]).nonzero()
    gradient = torch.zeros(4, 10)
    gradient[tuple(free[:15].T)] = 9.0 if rank == 0 else -9.0
    gradient[tuple(free[15:].T)] = 1.0
    before = sparsifier.masks["weight"].clone()
    model.weight.grad = gradient
    sparsifier.step()
    grown = sparsifier.masks["weight"] & ~before
    return {"masks": [{"weight": grown}], "agreed": free[15 : 15 + int(grown.sum())]}


def accumulated(rank: int | None) -> dict[str, Any]:
    """An average of squares, signed sums and a window of gradients."""
    parts = {"prune": "obd", "grow": {"name": "gse", "by": "graest"}}
    return _train(rank, parts, own_weights=False)


def squares(rank: int) -> dict[str, Any]:
    """Planted: +3 and -1 on the ranks. The square of the mean is 1, the mean of squares would be 5."""
    model = nn.Linear(3, 2, bias=False)
    parts = recipe("constant", 3, prune={"name": "obd", "beta": 0.0})
    sparsifier = dstbench.Sparsifier(model, sgd(model, lr=0.0), parts, 1.0, total_steps=9)
    model.weight.grad = torch.full((2, 3), 3.0 if rank == 0 else -1.0)
    sparsifier.step()
    return {"total": sparsifier.evolution.foldings.totals["second_moment"]["weight"]}


def norms(rank: int) -> dict[str, Any]:
    """Inputs 3 and 4 on the ranks: their norm is 5, theirs added up before the root is taken."""
    model = nn.Linear(1, 2, bias=False)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model, lr=0.0), recipe("constant", 1, prune="wanda"), 1.0, total_steps=9
    )
    DistributedDataParallel(model)(torch.full((1, 1), 3.0 + rank)).sum().backward()
    seen = []
    inner = sparsifier.evolution.foldings.reset
    sparsifier.evolution.foldings.reset = lambda grown, update: (
        seen.append(dict(sparsifier.evolution.foldings.totals["input_norm"])),
        inner(grown, update),
    )
    sparsifier.step()
    return {"total": seen[0]["weight"]}


def rounds(rank: int) -> dict[str, Any]:
    """Each rank looks at batches of its own, and from other weights: the masks are one."""
    data = list(batches(2, seed=5 + rank))
    calibration = dstbench.Calibration(data, nn.functional.cross_entropy)
    return _train(rank, {"init": {"name": "force", "rounds": 4}}, calibration=calibration)


def topological(rank: int | None) -> dict[str, Any]:
    """Links by correlated inputs, of which each rank sees its own, and removals that percolate, by chance."""
    seen = [list(batches(3, seed=5 + peer)) for peer in range(2)]
    joined = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*seen, strict=True)]
    calibration = dstbench.Calibration(joined if rank is None else seen[rank], nn.functional.cross_entropy)
    return {
        prune: _train(
            rank,
            {"name": "chtss", "delta_t": 2, "stop": 1.0, "zeta": 0.3, "prune": prune, "percolates": True,
             "init": {"name": "csti", "batches": 3}},
            own_weights=False,
            calibration=calibration,
        )
        for prune in ("soft-magnitude", "soft-ri")
    }  # fmt: skip


def loss_raises(rank: int) -> dict[str, Any]:
    """A loss that fails on one rank alone, before training."""

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if rank:
            raise ValueError("only here")
        return nn.functional.cross_entropy(outputs, labels)

    calibration = dstbench.Calibration(list(batches(1)), loss)
    return _refused(rank, parts={"init": {"name": "force", "rounds": 4}}, calibration=calibration)


def _refused(rank: int, **options: Any) -> dict[str, Any]:
    try:
        _train(rank, options.pop("parts", {}), **options)
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        return {"type": type(error).__name__, "error": "\n".join([str(error), *notes])}
    return {"type": "", "error": "nothing was refused"}


def unequal_weights(rank: int) -> dict[str, Any]:
    """Nothing averages the gradients: the weights drift apart, and pruning by them would, too."""
    return _refused(rank, wrap=False)


def unequal_seeds(rank: int) -> dict[str, Any]:
    return _refused(rank, seed=rank)


def unequal_periods(rank: int) -> dict[str, Any]:
    """Their updates would fall on different steps."""
    return _refused(rank, parts=recipe("constant", 2 + rank))


def unequal_growth(rank: int) -> dict[str, Any]:
    return _refused(rank, parts={"grow": ["random", "gradient"][rank]})


def unequal_objects(rank: int) -> dict[str, Any]:
    """Scores that aren't registered are compared by what they hold, wherever in memory they lie."""
    return _refused(rank, parts={"prune": Policy(Odd(7.0 + rank, "never"))})


def unequal_densities(rank: int) -> dict[str, Any]:
    return _refused(rank, density=0.2 + rank / 10)


def unequal_lengths(rank: int) -> dict[str, Any]:
    return _refused(rank, steps=10 + rank)


def unequal_epochs(rank: int) -> dict[str, Any]:
    return _refused(rank, steps_per_epoch=5 + rank)


def unequal_shapes(rank: int) -> dict[str, Any]:
    return _refused(rank, net=[mlp, wider][rank])


def unequal_layers(rank: int) -> dict[str, Any]:
    return _refused(rank, dense_layers=["2"] if rank else [])


def wider(seed: int = 0) -> nn.Module:
    model = mlp(seed)
    model[0] = nn.Linear(12, model[0].out_features + 1)
    return model


def made_on_one(rank: int) -> dict[str, Any]:
    """Rank 1 is refused before the ranks compare anything."""
    return _refused(rank, density=2.0 if rank else 0.2)


@dataclass(frozen=True)
class Odd:
    """Magnitude, but for what ``do`` says of rank 1 in layer 2."""

    scale: float = 1.0
    do: str = "differ"

    def __call__(self, layer: Any, rng: Any) -> torch.Tensor:
        score = self.scale * layer.weight.abs()
        if dist.get_rank() == 1 and layer.name == "2" and self.do != "never":
            if self.do == "raise":
                raise RuntimeError("only here")
            if self.do == "nan":
                return score * float("nan")
            return score.flatten().flip(0).view_as(score)
        return score


def same_objects(rank: int) -> dict[str, Any]:
    """What is no difference: a lambda, an address, a device."""
    return _refused(rank, parts={"prune": Policy(Odd(do="never"))})


def score_differs(rank: int) -> dict[str, Any]:
    return _refused(rank, parts={"prune": Policy(Odd())})


def score_raises(rank: int) -> dict[str, Any]:
    return _refused(rank, parts={"prune": Policy(Odd(do="raise"))})


def score_is_nan(rank: int) -> dict[str, Any]:
    return _refused(rank, parts={"prune": Policy(Odd(do="nan"))})


def init_raises(rank: int) -> dict[str, Any]:
    return _refused(
        rank, parts={"init": {"name": "magnitude", "share": "global"}, "grow": "gradient"}, net=spoilt
    )


def spoilt(seed: int) -> nn.Module:
    """Rank 1's weights, ``seed`` being its rank, are NaN."""
    model = mlp(seed)
    if seed:
        nn.init.constant_(model[2].weight, float("nan"))
    return model


def gradient_on_one(rank: int) -> dict[str, Any]:
    """Rank 1 has no gradient of layer b, which growth reads: that alone is averaged by no DDP."""
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe=recipe("constant", 1, grow="gradient"), density=0.5, total_steps=5
    )
    out = model["a"](torch.ones(2, 8))
    (out if rank else model["b"](out)).sum().backward()
    try:
        sparsifier.step()
    except StrategyError as error:
        return {"type": "StrategyError", "error": str(error)}
    return {"type": "", "error": "nothing was refused"}


VALUES: dict[str, dict[str, Any]] = {
    "evci_unit": {"values": "evci_unit"},
    "swi": {"values": {"name": "swi", "grown": "uniform", "restart": {"name": "lr_restart", "n": 2}}},
    "last": {"values": "last"},
    "supar": {"values": "supar"},
    "deep-r": {"recipe": {"name": "deep-r"}},
    "top-kast": {"recipe": {"name": "top-kast", "explore": 0.0, "delta_t": 2}},
}


def valued(rank: int | None) -> dict[str, Any]:
    """All kinds of values, and a superset: from weights that differ between ranks until they are wrapped, in one
    process from rank 0's."""
    return {
        name: _train(rank, options.get("recipe", {}), values=options.get("values"))
        for name, options in VALUES.items()
    }


@dataclass(frozen=True)
class Remembering:
    """Values that grow as the initial weights were, whichever these are; on rank 1 ``fails``."""

    fails: bool = False

    def remember(self, layer: Any, rng: Any) -> torch.Tensor:
        if self.fails and dist.get_rank() == 1:
            raise RuntimeError("only here")
        return layer.weight.clone() if layer.memory is None else layer.memory

    def grown(self, layer: Any, rng: Any) -> torch.Tensor:
        return layer.memory


def remembering(rank: int) -> dict[str, Any]:
    return _train(rank, {}, values=Remembering())


def values_raise(rank: int) -> dict[str, Any]:
    return _refused(rank, values=Remembering(fails=True))
