"""The optimiser and its parameter groups."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from regnet.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Weights of convolutions and linear layers, which decay, and all else, which may be kept from it.

    Norms and biases are told by their single dimension.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 or decay_norm_and_bias else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Fused, in which no step waits for the device: neither for Adam's count of steps nor for the gradient scaler."""
    groups = parameter_groups(model, config.weight_decay, config.decay_norm_and_bias)
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=True)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
