"""The optimiser and its parameter groups."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from regnet.config.schema import OptimConfig
from regnet.models.regnet import Model
from regnet.optim.muon import Muon, Turn


class Kind(NamedTuple):
    """What the parameters of one group have in common.

    Attributes:
        decays: whether weight decay is theirs.
        matrices: into so many a weight is cut to be stepped by Muon; 0 for no step by Muon.
        share: of the learning rate.
    """

    decays: bool
    matrices: int
    share: float


def parameter_groups(model: Model, config: OptimConfig) -> list[dict[str, Any]]:
    """Weights of convolutions and linear layers, which decay, and all else, which may be kept from it.

    Norms and biases are told by their single dimension. Muon has the convolutions between stem and head, those of as
    many groups together. What is not to be trained is in no group.

    Returns:
        groups with `params`, `weight_decay`, `matrices` and `scale`: their learning rate over the head's.
    """
    distance = distances_to_head(model)
    alike: dict[Kind, list[nn.Parameter]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 or config.decay_norm_and_bias
            is_matrix = isinstance(module, nn.Conv2d) and parameter.ndim > 1
            turned = config.name == "muon" and is_matrix and name.startswith("body.")
            share = config.layer_decay ** distance[parameter]
            alike[Kind(decays, module.groups if turned else 0, share)].append(parameter)

    def decay(kind: Kind) -> float:
        if not kind.decays:
            return 0.0
        return config.muon_weight_decay if kind.matrices else config.weight_decay

    return [
        {
            "params": parameters,
            "weight_decay": decay(kind),
            "matrices": kind.matrices,
            "scale": kind.share * (config.muon_lr / config.lr if kind.matrices else 1.0),
        }
        for kind, parameters in alike.items()
    ]


def distances_to_head(model: Model) -> dict[nn.Parameter, int]:
    """Blocks from each parameter to the head, which is at 0 itself; the last block is at 1, the stem behind the first.

    Source: layer-wise rates as in the fine-tuning of Clark et al., ELECTRA (2020), with a block for a layer.
    """
    parts = [model.head, *reversed(model.blocks), model.stem]
    return {parameter: distance for distance, part in enumerate(parts) for parameter in part.parameters()}


def build_optimizer(
    model: Model, config: OptimConfig, dtype: torch.dtype, record: Callable[[Turn], Turn] = lambda turn: turn
) -> Optimizer:
    """Fused, in which no step waits for the device: neither for Adam's count of steps nor for the gradient scaler.

    Muon alone waits for the scaler.

    Args:
        dtype: of Muon's matrix products.
        record: what may make a function of tensors a recorded one.
    """
    groups = parameter_groups(model, config)
    if config.name == "muon":
        return Muon(groups, config.lr, config.momentum, dtype, record)
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=True)


def averages(config: OptimConfig) -> int:
    """Numbers that the optimiser keeps for each that it trains."""
    return {"adam": 2, "adamw": 2, "sgd": int(config.momentum > 0), "muon": 1}[config.name]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
