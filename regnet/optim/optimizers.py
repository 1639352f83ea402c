"""Optimisers and their parameter groups."""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from regnet.config.schema import OptimConfig
from regnet.models.regnet import Model
from regnet.optim.muon import Muon
from regnet.optim.without_dynamo import without_dynamo


class GroupKey(NamedTuple):
    """Properties that all parameters of a group share.

    Attributes:
        decays: whether weight decay applies.
        num_matrices: number of matrices into which Muon splits a weight; 0 if Muon does not update it.
        layer_scale: learning-rate factor of layer-wise decay.
    """

    decays: bool
    num_matrices: int
    layer_scale: float


def parameter_groups(model: Model, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups parameters by weight decay, optimiser and learning-rate factor; frozen parameters are in no group.

    Weights of convolutions and linear layers always decay. Norms and biases, recognised by their single dimension,
    decay only with `decay_norm_and_bias`. Muon updates the convolutions between stem and head.

    Returns:
        groups with `params`, `weight_decay`, `num_matrices` (see Muon) and `lr_scale`, the factor by which their
        learning rate differs from the head's.
    """
    distance = distances_to_head(model)
    groups: dict[GroupKey, list[nn.Parameter]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 or config.decay_norm_and_bias
            is_conv_weight = isinstance(module, nn.Conv2d) and parameter.ndim > 1
            uses_muon = config.name == "muon" and is_conv_weight and name.startswith("body.")
            layer_scale = config.layer_decay ** distance[parameter]
            groups[GroupKey(decays, module.groups if uses_muon else 0, layer_scale)].append(parameter)

    def weight_decay(key: GroupKey) -> float:
        if not key.decays:
            return 0.0
        return config.muon_weight_decay if key.num_matrices else config.weight_decay

    return [
        {
            "params": parameters,
            "weight_decay": weight_decay(key),
            "num_matrices": key.num_matrices,
            "lr_scale": key.layer_scale * (config.muon_lr / config.lr if key.num_matrices else 1.0),
        }
        for key, parameters in groups.items()
    ]


def distances_to_head(model: Model) -> dict[nn.Parameter, int]:
    """Distance of each parameter from the head, in blocks: 0 in the head, 1 in the last block, most in the stem.

    Source: layer-wise learning rates as for fine-tuning in Clark et al., ELECTRA (2020), with blocks as layers.
    """
    modules = [model.head, *reversed(model.blocks), model.stem]
    return {parameter: distance for distance, module in enumerate(modules) for parameter in module.parameters()}


def build_optimizer(model: Model, config: OptimConfig, dtype: torch.dtype) -> Optimizer:
    """The configured optimiser.

    Implementations are fused, so a step does not wait for the device, neither for Adam's step count nor for the
    gradient scaler. Only Muon waits for the device, to learn whether the gradient scaler found an overflow.

    Args:
        dtype: dtype of Muon's matrix products.
    """
    groups = parameter_groups(model, config)
    if config.name == "muon":
        return without_dynamo(Muon)(groups, config.lr, config.momentum, dtype)
    if config.name == "sgd":
        sgd = without_dynamo(SGD)
        return sgd(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    adam = without_dynamo(Adam if config.name == "adam" else AdamW)
    return adam(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=True)


def state_tensors_per_parameter(config: OptimConfig) -> int:
    """Number of tensors of a parameter's shape that the optimiser keeps for each trained parameter."""
    return {"adam": 2, "adamw": 2, "sgd": int(config.momentum > 0), "muon": 1}[config.name]


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of the head; the other groups follow by their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
