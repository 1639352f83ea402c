"""The optimiser, its parameter groups, and the moving average of the weights."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
    groups = parameter_groups(model, config.weight_decay, config.decay_norm_and_bias)
    # Fused, the gradient scaler's verdict stays on the device; otherwise every fp16 step waits for it.
    fused = next(model.parameters()).is_cuda
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)
    kind = {"adam": Adam, "adamw": AdamW}[config.name]
    return kind(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=fused)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_ema(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of weights and BatchNorm statistics; None for a decay of 0."""
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
