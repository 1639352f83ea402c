"""Helpers for the contents of a checkpoint; its fields are defined by TrainingState in regnet/training/state.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regnet.checkpoint.file import CheckpointError

_EMA_PREFIX = "module."  # ModelEma's prefix of the names of the weights


def evaluated_weights(saved: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The weights that a run evaluates: the EMA weights if there are any.

    Args:
        saved: the contents of the checkpoint `path`.

    Raises:
        CheckpointError: it has no weights.
    """
    try:
        if saved["ema"] is None:
            return saved["model"]
        ema = saved["ema"].items()
        return {name.removeprefix(_EMA_PREFIX): value for name, value in ema if name.startswith(_EMA_PREFIX)}
    except (KeyError, TypeError, AttributeError) as error:
        raise incomplete(path, error) from error


def incomplete(path: Path, error: Exception) -> CheckpointError:
    """The error for a checkpoint in which something is missing."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return CheckpointError(
        f"{path}: incomplete checkpoint ({reason}); use one written by train_ddp.py or regnet.export --weights"
    )


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Nested contents with every tensor replaced by `function` of it, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(entry, function) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(entry, function) for entry in value)
    return value


def check_same_shapes(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], same_types: bool = False
) -> None:
    """Raises CheckpointError, which names the first difference, if the checkpoint holds a different network.

    Args:
        expected: the state dict of the network.
        found: the state dict in the checkpoint.
        same_types: the data types must be equal, too.
    """
    for name in [*expected, *found]:
        if name not in found:
            difference = f"{name} is missing"
        elif name not in expected:
            difference = f"unexpected {name}"
        elif expected[name].shape != found[name].shape:
            difference = f"{name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        elif same_types and expected[name].dtype != found[name].dtype:
            difference = f"{name} is {found[name].dtype}, expected {expected[name].dtype}"
        else:
            continue
        raise CheckpointError(f"the checkpoint holds a different network: {difference}")
