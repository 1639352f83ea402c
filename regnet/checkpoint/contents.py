"""What a checkpoint holds: copies, comparisons and the weights to evaluate."""

from pathlib import Path
from typing import Any

import torch

from regnet.checkpoint.file import CheckpointError

_AVERAGED = "module."  # what ModelEma puts before the names of the weights that it keeps


def evaluated_weights(saved: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The weights of the network that is evaluated, in the state that this file's checkpoint holds.

    Raises:
        CheckpointError: there are none in it.
    """
    try:
        if saved["ema"] is None:
            return saved["model"]
        averaged = saved["ema"].items()
        return {name.removeprefix(_AVERAGED): value for name, value in averaged if name.startswith(_AVERAGED)}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: a checkpoint of something else (no {error})") from error


def copy_to_cpu(value: Any) -> Any:
    """A copy of a nested state, with all its tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copy_to_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(entry) for entry in value)
    return value


def check_same_shapes(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Raises CheckpointError, which names the first difference, if the two are not of one network."""
    for name in [*mine, *theirs]:
        if name not in theirs:
            raise CheckpointError(f"the checkpoint is of another network: it lacks {name}")
        if name not in mine:
            raise CheckpointError(f"the checkpoint is of another network: it has {name} too")
        if mine[name].shape != theirs[name].shape:
            shapes = f"{tuple(theirs[name].shape)} there, {tuple(mine[name].shape)} here"
            raise CheckpointError(f"the checkpoint is of another network: {name} is {shapes}")
