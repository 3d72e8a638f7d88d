"""Initial weights that several models share."""

from __future__ import annotations

from torch import nn


def kaiming(model: nn.Sequential) -> nn.Sequential:
    """Kaiming's normal initialisation, fan in, of every convolution and linear layer, in definition order."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def kaiming_fan_out(model: nn.Sequential) -> nn.Sequential:
    """Kaiming's normal initialisation, fan out, of every convolution; linear layers keep torch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
