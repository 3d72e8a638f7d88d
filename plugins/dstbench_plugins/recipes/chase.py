"""Chase: dynamic sparse training from which channel sparsity emerges (arXiv 2305.19454)."""

from typing import Any, Literal

from dstbench.api import Recipe

_END = 0.8125  # 130 of 160 epochs: where both the soft memory bound and the removal of channels end


def chase(
    channel_sparsity: float = 0.4,
    delta_t: int = 100,
    channel_delta_t: int | None = None,
    extra: float = 0.05,
    extra_end: float = 0.0,
    floor: float = 0.2,
    stop: float = _END,
    channel_stop: float = _END,
    layerwise: bool = False,
    scope: Literal["block", "residual"] = "block",
) -> Recipe:
    """Chase S_c: prune by magnitude, grow by gradient, both over the whole network, under a soft memory bound;
    meanwhile the fraction S_c of the removable channels goes for good, weakest first (arXiv 2305.19454).

    Taken from the authors' code for CIFAR: extra density r = 0.05 at the start, both phases and their curves,
    130 of 160 epochs, floor β = 0.2 (VGG-19; ResNet-50 there: 0.5; ImageNet: 100 epochs with 0.8 for both stops
    and ``extra_end`` 0.005). S_c = 0 is the same exploration without removal. ``layerwise``: layers keep
    ERK's densities, as with the ImageNet script's defaults. ``scope: residual`` removes channels of the residual
    streams, too: the paper's "prune skip", of which no code was released.

    Departures: masks are drawn with exact counts; ΔT is 100 steps (published: 1000 for weights, 1000 to 8000
    for channels, about 0.1 to 2 epochs); channel events come as often as topology updates unless
    ``channel_delta_t`` says otherwise; no update falls on the last step.
    """
    schedule = {
        "name": "soft_then_hard",
        "extra": extra,
        "extra_end": extra_end,
        "delta_t": delta_t,
        "stop": stop,
    }
    share = "in_place" if layerwise else "global"
    structure: dict[str, Any] = {
        "name": "emergent_channel",
        "channel_sparsity": channel_sparsity,
        "floor": floor,
        "delta_t": channel_delta_t or delta_t,
        "offset": delta_t // 2 % channel_delta_t if channel_delta_t else None,
        "stop": channel_stop,
        "scope": scope,
    }
    return Recipe(
        structure=structure if channel_sparsity else "unstructured",
        prune={"name": "magnitude", "share": share},
        grow={"name": "gradient", "share": share},
        schedule=schedule,
    )
