"""Any classification model of timm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
from torch import nn

from dstbench.errors import BadInput, nearest
from dstbench_plugins.models import image_shape


def timm_model(num_classes: int, input_shape: tuple[int, int, int], *, variant: str) -> nn.Module:
    """Build a timm model by its name (``resnet18``) with fresh weights; nothing is ever downloaded.

    ``img_size`` is passed on where the architecture takes one (vision transformers and the like). Raises
    BadInput, with the nearest names, where timm knows no such model, and where it can't be built for this
    input shape.
    """
    known = timm.list_models()
    if variant not in known:
        raise BadInput(f"timm: no model {variant!r}{nearest(variant, known)}")
    channels, height, across = image_shape(f"timm:{variant}", input_shape)
    create = partial(timm.create_model, variant, pretrained=False, num_classes=num_classes, in_chans=channels)
    try:
        return _sized(create, (height, across))
    except (AssertionError, ValueError) as error:  # how timm refuses a size that its patches don't fit
        raise BadInput(f"timm:{variant} can't be built for input {list(input_shape)}: {error}") from error


def _sized(create: Callable[..., nn.Module], size: tuple[int, int]) -> nn.Module:
    """Build with ``img_size``, or without where the constructor says that it knows no such argument."""
    try:
        return create(img_size=size)
    except TypeError as error:
        if "unexpected keyword argument 'img_size'" not in str(error):
            raise
        return create()
