"""On demand: ``python tests/core/cost/every_model.py [name ...]`` sets the cost of two models of each of timm's files
and of torchvision's against torch's counter, all of it: weights' products and activations'. Takes half an hour."""

import sys
import warnings
from collections import defaultdict
from pathlib import Path

import timm
import torch
import torchvision
from timm.models import _registry

sys.path.append(str(Path(__file__).parents[2]))

from dstbench.core.cost.cost import cost
from fakes.costs import torchs_macs

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32",
)  # fmt: skip


def families() -> list[str]:
    """The first and the middle name of every file of timm's."""
    names = defaultdict(list)
    for name in timm.list_models():
        names[_registry._model_to_module[name]].append(name)
    return [name for found in names.values() for name in {found[0], found[len(found) // 2]}]


def check(name: str) -> str:
    """ "equal", or what differs."""
    timms = name not in TORCHVISION
    try:
        with torch.device("meta"):
            model = timm.create_model(name) if timms else torchvision.models.get_model(name)
    except NotImplementedError:  # its initialisation reads values
        model = timm.create_model(name) if timms else torchvision.models.get_model(name)
    shape = (
        tuple(model.pretrained_cfg["input_size"])
        if timms
        else (3, 299, 299)
        if "inception" in name
        else (3, 224, 224)
    )
    found, expected = cost(model, None, shape), sum(torchs_macs(model, shape).values())
    said = f"{found.macs / 1e9:.3f} + {sum(found.products.values()) / 1e9:.3f} G"
    return f"equal {said}" if found.all_macs == expected else f"DIFFERS {said}, torch {expected / 1e9:.3f} G"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    names = sys.argv[1:] or [*TORCHVISION, *families()]
    equal = 0
    for name in names:
        try:
            said = check(name)
        except Exception as error:  # a model that can't be built or run on its own size
            said = f"NOT RUN {type(error).__name__}: {str(error)[:150]}"
        equal += said.startswith("equal")
        print(name, said, flush=True)
    print(f"{equal} of {len(names)} equal")
