"""torchvision's data sets, importable beside a torch without CUDA too."""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    # The registry's torchvision is built for CUDA: beside a CPU-only torch its library does not load, and then
    # its import fails on operators without a schema. The schemas are all that the data sets need.
    if torch.version.cuda is not None or "torchvision::" not in str(error):
        raise
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _schemas.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for _name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_name]
    import torchvision

from torchvision.datasets import CIFAR100, ImageFolder

__all__ = ["CIFAR100", "ImageFolder", "torchvision"]
