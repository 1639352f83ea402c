"""The optimiser and its parameter groups."""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from regnet.config import OptimConfig
from regnet.muon import Muon


class Kind(NamedTuple):
    """What the parameters of one group have in common.

    Attributes:
        decays: whether weight decay is theirs.
        matrices: into so many a weight is cut to be stepped by Muon; 0 for no step by Muon.
    """

    decays: bool
    matrices: int


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Weights of convolutions and linear layers, which decay, and all else, which may be kept from it.

    Norms and biases are told by their single dimension. Muon has the convolutions between stem and head, those of as
    many groups together.

    Returns:
        groups with `params`, `weight_decay`, `matrices` and `scale`: their learning rate over the others'.
    """
    alike: dict[Kind, list[nn.Parameter]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            decays = parameter.ndim > 1 or config.decay_norm_and_bias
            is_matrix = isinstance(module, nn.Conv2d) and parameter.ndim > 1
            turned = config.name == "muon" and is_matrix and name.startswith("body.")
            alike[Kind(decays, module.groups if turned else 0)].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if kind.decays else 0.0,
            "matrices": kind.matrices,
            "scale": config.muon_lr / config.lr if kind.matrices else 1.0,
        }
        for kind, parameters in alike.items()
    ]


def build_optimizer(model: nn.Module, config: OptimConfig, dtype: torch.dtype) -> Optimizer:
    """Fused, in which no step waits for the device: neither for Adam's count of steps nor for the gradient scaler.

    Muon alone waits for the scaler.

    Args:
        dtype: of Muon's matrix products.
    """
    groups = parameter_groups(model, config)
    if config.name == "muon":
        return Muon(groups, config.lr, config.momentum, dtype)
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=True)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
