"""Dead rows kept silent: where a structure kills whole output rows, what follows them adds nothing either.

A dead row's convolution gives zero, but its bias and the bias of the norm behind it would still send a
constant on. After the last topology update, when no row can come back, both are held at zero, and so is the
norm's running mean: the row's output is exactly zero in training and in evaluation, and removing it is exact.
Before that they are left alone, since behind a ReLU a silent row would get no gradient by which to be grown.

A channel of a residual stream is dead where every row that writes it is: then all that adds to it is held at zero,
position embeddings and norms, too. Rows that a structure removed for good are silent at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dstbench.api import Coupling
from dstbench.core.engine.structures import EngineStructure
from dstbench.core.network.channels import Channels, channels
from dstbench.core.network.couplings import additions, stream_channels
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import maskable_layers, unwrap
from dstbench.core.network.ledger import Flow
from dstbench.core.storage.bits import bits_of, keep
from dstbench.core.storage.states import States


@dataclass(frozen=True)
class RowVector:
    """A vector with one entry per output row of a layer: a bias, a norm's bias, or its running mean."""

    layer: str
    owner: nn.Module
    field: str

    @property
    def values(self) -> Tensor:
        """Float [out], a parameter or a buffer: whichever the module holds now, since moving it makes new ones."""
        values: Tensor = getattr(self.owner, self.field)
        return values


class DeadRows:
    """The vectors behind layers whose structure kills whole rows, and which of their entries are alive."""

    def __init__(
        self,
        model: nn.Module,
        structures: Mapping[str, EngineStructure],
        couplings: Iterable[Coupling] = (),
        example: Inputs | None = None,
    ) -> None:
        """couplings: channels that a structure removes for good. example: for models that can't be traced without."""
        silenced = {name for name, structure in structures.items() if structure.silences}
        network = None
        if silenced or any(coupling.stream for coupling in couplings):
            network = channels(unwrap(model), None, example)
        self.vectors = [] if network is None else row_vectors(model, silenced, network.flow)
        self._stream = None if network is None else Stream(unwrap(model), network, silenced)
        self._alive: dict[str, Tensor] = {}  # bool [out as stored], by layer

    def hold(
        self, masks: Mapping[str, Tensor], left: Mapping[str, Tensor], support: Mapping[str, Tensor]
    ) -> None:
        """Take the rows without a weight for dead; ``left``: the rows that are still stored, where some aren't;
        ``support``, bool [*w]: what is gone for good, of the layers that lost any."""
        alive = alive_rows(masks, self.vectors)
        self._alive = {name: rows[left[name]] if name in left else rows for name, rows in alive.items()}
        if self._stream is not None:
            self._stream.hold(masks, support)

    def gradients(self, silent: bool) -> list[tuple[Tensor, Tensor]]:
        """Every gradient with the bits to keep of it."""
        held = ((values.grad, alive) for values, alive in self._held(silent))
        return [(gradient, bits_of(alive, gradient)) for gradient, alive in held if gradient is not None]

    def enforce(self, silent: bool) -> None:
        """Silence the dead rows again, in case someone wrote there."""
        keep((values.data, bits_of(alive, values)) for values, alive in self._held(silent))

    def zero(self, states: States, silent: bool) -> None:
        """Silence the dead rows: values and their optimizer state, in place."""
        for values, alive in self._held(silent):
            states.clear(values, alive.expand_as(values))

    def _held(self, silent: bool) -> list[tuple[Tensor, Tensor]]:
        """Values, and which of them are alive: bool, broadcasting to them."""
        rows = [(vector.values, self._alive[vector.layer]) for vector in self.vectors] if silent else []
        return rows if self._stream is None else rows + self._stream.held(silent)


class Stream:
    """What adds to the channels of residual streams, and which of them some row still writes."""

    def __init__(self, model: nn.Module, network: Channels, silenced: Iterable[str]) -> None:
        self._network, self._silenced = network, frozenset(silenced)
        self._within = sorted(stream_channels(network))
        every = additions(model, network)
        firm = {
            channel for addition in every if not addition.yields for channel in addition.channels.tolist()
        }
        self._additions = [addition for addition in every if firm.isdisjoint(addition.channels.tolist())]
        # By whether silenced rows are: bool, broadcasting to the values.
        self._held: dict[bool, list[tuple[int, Tensor]]] = {False: [], True: []}

    @usual_defaults()
    def hold(self, masks: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> None:
        """Find the channels that no row writes: by the masks, bool [*w], of silenced layers, else by the support."""
        for silent in self._held:
            alive = self._written({n: masks[n] for n in self._silenced} if silent else {}, support)
            self._held[silent] = []
            for index, addition in enumerate(self._additions):
                entries = alive[addition.channels]
                if not bool(entries.all()):
                    values = addition.values
                    along = [-1 if axis == addition.axis else 1 for axis in range(values.dim())]
                    self._held[silent].append((index, entries.view(along).to(values.device)))

    def held(self, silent: bool) -> list[tuple[Tensor, Tensor]]:
        """The values that have dead entries, and which of them are alive: bool, broadcasting to the values."""
        return [(self._additions[index].values, alive) for index, alive in self._held[silent]]

    def _written(self, masks: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> Tensor:
        """Which channels some row may write, and those of no stream: bool [channels]."""
        flow, of = self._network.flow, self._network.of
        written = torch.ones(self._network.count, dtype=torch.bool)
        written[self._within] = False
        for name, slots in flow.rows.items():
            left = masks.get(name, support.get(name))
            alive = torch.ones(len(slots), dtype=torch.bool) if left is None else left.flatten(1).any(1).cpu()
            written[of[slots][alive]] = True
        return written


def row_vectors(model: nn.Module, names: Iterable[str], flow: Flow) -> list[RowVector]:
    """The vectors to hold at zero with the dead rows of the named layers."""
    inner = unwrap(model)
    layers, modules = maskable_layers(inner), dict(inner.named_modules())
    vectors = []
    for name in sorted(names):
        owners = [layers[name].module, *(modules[norm] for norm in flow.behind.get(name, ()))]
        candidates = [
            RowVector(name, owner, field)
            for owner in owners
            for field in ("bias", "running_mean")
            if isinstance(getattr(owner, field, None), Tensor)
        ]
        if not any(
            _frozen(vector.values) for vector in candidates
        ):  # those keep what they say: the row isn't silent
            vectors += candidates
    return vectors


def _frozen(values: Tensor) -> bool:
    return isinstance(values, nn.Parameter) and not values.requires_grad


def alive_rows(masks: Mapping[str, Tensor], vectors: Iterable[RowVector]) -> dict[str, Tensor]:
    """Whether a row has an active weight: bool [out] by layer."""
    return {vector.layer: masks[vector.layer].flatten(1).any(1) for vector in vectors}
