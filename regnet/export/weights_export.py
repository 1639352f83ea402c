"""Weights alone: as a checkpoint that cannot be resumed, about half the size, or as .safetensors for any program."""

import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch

from regnet.checkpoint.load_model import load_trained_model, weights_only_checkpoint
from regnet.checkpoint.pretrained import LIBRARIES, SAFETENSORS, is_safetensors
from regnet.config.schema import ModelConfig
from regnet.errors import UsageError
from regnet.models.design_space import Variant
from regnet.runs.atomic_write import replace_file

OWN_NAMES = "regnet"


def export_weights(checkpoint: str | Path, path: str | Path, names: str = OWN_NAMES) -> None:
    """Writes the weights that the run evaluates: the EMA weights, if it keeps any.

    Args:
        checkpoint: of a run, or a weights-only checkpoint.
        path: a .safetensors file gets a state dict and the class names, any other file a weights-only checkpoint.
        names: regnet, timm or torchvision: the program whose tensor names a .safetensors file has.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: the other program has no such network, or the file is not a .safetensors file.
        OSError: the file cannot be written; a previous one is kept.
    """
    path = Path(path)
    check_names(path, names)
    replace_file(path, _safetensors(checkpoint, names) if is_safetensors(path) else weights_only_checkpoint(checkpoint))


def check_names(path: Path | None, names: str) -> None:
    """Raises UsageError unless the names can be chosen in this kind of file."""
    if names not in LIBRARIES:
        raise UsageError(f"names must be one of {', '.join(LIBRARIES)}, got {names!r}")
    if names != OWN_NAMES and (path is None or not is_safetensors(path)):
        raise UsageError(f"--names needs --weights with the ending {SAFETENSORS}")


def _safetensors(checkpoint: str | Path, names: str) -> bytes:
    trained = load_trained_model(checkpoint)
    _check_form(trained.config.model, names)
    name_in = LIBRARIES[names]
    tensors = {name_in(name): tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    return safetensors.torch.save(tensors, {"format": "pt", "classes": json.dumps(trained.classes)})


def _check_form(model: ModelConfig, names: str) -> None:
    """Raises UsageError, with the reason, if the program whose names are wanted has no such network."""
    reason, stages = "", len(model.design().stages)
    if names != OWN_NAMES and model.variant is not Variant.paper:
        reason = f"only networks of model.variant {Variant.paper}, this one is of variant {model.variant}"
    elif names == "timm" and stages != 4:
        reason = f"only networks of 4 stages, this one has {stages}"
    elif names == "timm" and model.design() != replace(model, rounding="nearest").design():
        reason = "only networks of model.rounding nearest, this one is wider"
    if reason:
        raise UsageError(f"--names {names}: {names} has {reason}. Use --names {OWN_NAMES}")
