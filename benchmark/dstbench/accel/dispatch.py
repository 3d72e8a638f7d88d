"""Which way a sparse network runs: an inference copy on the fastest path that there is for its structure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dstbench.accel.compact import compact, masked_copy
from dstbench.api import Layout, Spec, Structure
from dstbench.core.rows import whole_rows


def accelerate(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    structure: Spec | Layout | Structure,
    example_input: Tensor | None = None,
) -> nn.Module:
    """An inference copy of a masked model, with the path it runs on as its attribute ``execution_path``.

    ``compacted`` where the structure kills whole rows (needs ``example_input`` to check the outputs); else
    ``masked-dense``, which is as fast as dense and no faster.
    """
    if isinstance(structure, str | Mapping):
        from dstbench.registration.registry import registry

        structure = registry().build("structure", structure)
    if whole_rows(structure) and example_input is not None:
        copied, path = compact(model, masks, example_input), "compacted"
    else:
        copied, path = masked_copy(model, masks), "masked-dense"
    copied.eval()
    copied.execution_path = path  # type: ignore[assignment]
    return copied
