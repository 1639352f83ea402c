"""torchvision's datasets, importable with a CPU-only torch as well."""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    # PyPI's torchvision is built for CUDA: with a CPU-only torch its library does not load, and the import fails on
    # operators without a schema. The datasets need no more than the schemas.
    if torch.version.cuda is not None or "torchvision::" not in str(error):
        raise
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _schemas.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for _name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_name]
    import torchvision

from torchvision.datasets import CIFAR100

__all__ = ["CIFAR100", "torchvision"]
