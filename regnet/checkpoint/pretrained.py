"""Pretrained weights of torchvision, timm or this program, converted to this program's names."""

import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from regnet.checkpoint.file import CheckpointError, has_trailer, unpack
from regnet.checkpoint.state_dicts import check_same_shapes, evaluated_weights
from regnet.config.schema import ModelConfig

SAFETENSORS = ".safetensors"
_IN_BLOCK = re.compile(r"body\.(\d+)\.layers\.(\d+)\.(.+)")
_SAVE_ALONE = "save the weights alone: torch.save(model.state_dict(), FILE), without a wrapper such as DDP's"
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # prefixes of DDP, torch.compile and Lightning
_HEAD, _COUNTER = "head.", ".num_batches_tracked"


@dataclass(frozen=True)
class NameMapping:
    """Converts this program's tensor names to another library's.

    Attributes:
        block: the library's prefix of a block; stage and number are counted from 1, index from 0.
        layers: the library's names of the layers, within a block and outside the blocks, by this program's names.
    """

    block: str
    layers: dict[str, str]

    def __call__(self, name: str) -> str:
        layer, _, tensor = name.rpartition(".")
        found = _IN_BLOCK.fullmatch(layer)
        if found is None:
            return f"{self.layers[layer]}.{tensor}"
        stage, index = int(found[1]) + 1, int(found[2])
        block = self.block.format(stage=stage, index=index, number=index + 1)
        return f"{block}.{self.layers[found[3]]}.{tensor}"


_TORCHVISION = NameMapping(
    block="trunk_output.block{stage}.block{stage}-{index}",
    layers={
        "stem.conv_3x3": "stem.0",
        "stem.bn": "stem.1",
        "conv1_1x1": "f.a.0",
        "bn1": "f.a.1",
        "conv2_3x3": "f.b.0",
        "bn2": "f.b.1",
        "se.conv1_1x1": "f.se.fc1",
        "se.conv2_1x1": "f.se.fc2",
        "conv3_1x1": "f.c.0",
        "bn3": "f.c.1",
        "downsample.conv_1x1": "proj.0",
        "downsample.bn": "proj.1",
        "head.f_out": "fc",
    },
)
_TIMM = NameMapping(
    block="s{stage}.b{number}",
    layers={
        "stem.conv_3x3": "stem.conv",
        "stem.bn": "stem.bn",
        "conv1_1x1": "conv1.conv",
        "bn1": "conv1.bn",
        "conv2_3x3": "conv2.conv",
        "bn2": "conv2.bn",
        "se.conv1_1x1": "se.fc1",
        "se.conv2_1x1": "se.fc2",
        "conv3_1x1": "conv3.conv",
        "bn3": "conv3.bn",
        "downsample.conv_1x1": "downsample.conv",
        "downsample.bn": "downsample.bn",
        "head.f_out": "head.fc",
    },
)
# The functions that convert this program's tensor names to those of a library.
LIBRARIES: dict[str, Callable[[str], str]] = {"regnet": str, "torchvision": _TORCHVISION, "timm": _TIMM}


class PretrainedWeights(NamedTuple):
    """The weights in a file.

    Attributes:
        tensors: by this program's names, on the CPU.
        description: a line for people.
    """

    tensors: dict[str, Tensor]
    description: str


def read_weights(
    config: ModelConfig, initial: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> PretrainedWeights:
    """Reads the file `config.weights` for a network.

    The result has all tensors of the network except the classifier's if `config.head` is new, and except BatchNorm's
    counters, which nothing reads, if the file has none.

    Args:
        initial: the state dict of the network.
        classes: names by label, which must equal those in a checkpoint of this program; None for any.

    Raises:
        CheckpointError: the file cannot be read, or holds a different network or different classes; one line that names
            the file.
    """
    path = Path(config.weights)
    found, found_classes = _read(path)
    library, name_in = _library_of(path, found)
    needed = {name: tensor for name, tensor in initial.items() if config.head == "keep" or not name.startswith(_HEAD)}
    needed = {name: tensor for name, tensor in needed.items() if not _is_counter(name) or name_in(name) in found}
    if config.head == "keep":
        _check_classifier(path, initial, found, name_in)
        if classes is not None and found_classes is not None and tuple(classes) != tuple(found_classes):
            raise CheckpointError(f"{path}: its classes have different names. {_NEW_HEAD}")
    else:
        head = {name_in(name) for name in initial if name.startswith(_HEAD)}
        found = {name: tensor for name, tensor in found.items() if name not in head}
    try:
        check_same_shapes({name_in(name): tensor for name, tensor in needed.items()}, found)
    except CheckpointError as error:
        wider = library == "torchvision" and config.rounding == "nearest"
        hint = "; some torchvision models need --model.rounding torchvision" if wider else ""
        raise CheckpointError(f"{path}: {error}{hint}") from error
    tensors = {name: _convert(path, name_in(name), found[name_in(name)], tensor) for name, tensor in needed.items()}
    count = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    new = "" if config.head == "keep" else "; the head is newly initialised"
    origin = "this program" if library == "regnet" else library
    description = f"Starting from {path}: {count:,} weights and statistics of {origin}{new}"
    return PretrainedWeights(tensors, description)


def is_safetensors(path: Path) -> bool:
    """Whether a file is read and written as .safetensors."""
    return path.suffix.lower() == SAFETENSORS


def load_pretrained(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a network; tensors that are not among them keep their values."""
    network.load_state_dict({**network.state_dict(), **weights})


def _is_counter(name: str) -> bool:
    return name.endswith(_COUNTER)


def _read(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors in a file, and the names of the classes if it is a checkpoint of this program."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if has_trailer(content):
        saved = unpack(path, content)
        return _check_state_dict(path, evaluated_weights(saved, path)), saved.get("classes")
    try:
        if is_safetensors(path):
            return safetensors.torch.load(content), None
        with warnings.catch_warnings(action="ignore"):  # about pickles, which are rejected anyway
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make an unpickler fail in any way
        kinds = "a state dict (torch.save or .safetensors) or a checkpoint of this program"
        cure = f"; {_SAVE_ALONE}" if isinstance(error, pickle.UnpicklingError) else ""
        raise CheckpointError(f"{path}: not readable as {kinds} ({type(error).__name__}){cure}") from error
    return _check_state_dict(path, found), None


def _check_state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a state dict, which maps names to tensors")
    for name, value in found.items():
        dense = isinstance(value, Tensor) and not (value.is_quantized or value.is_nested or value.is_complex())
        if not isinstance(name, str) or not dense:
            problem = f"{path}: not a state dict: {str(name)[:100]} is not a tensor of real numbers"
            is_training_checkpoint = any(isinstance(entry, dict) for entry in found.values())
            raise CheckpointError(f"{problem}; {_SAVE_ALONE}" if is_training_checkpoint else problem)
    return found


def _library_of(path: Path, found: dict[str, Tensor]) -> tuple[str, Callable[[str], str]]:
    """The library that wrote a state dict, and the function that converts this program's names to its names."""
    for library, name_in in LIBRARIES.items():
        if name_in("stem.conv_3x3.weight") in found:
            return library, name_in
    wrapper = next((prefix for prefix in _WRAPPERS if found and all(name.startswith(prefix) for name in found)), "")
    cure = f"; its names begin with {wrapper}: {_SAVE_ALONE}" if wrapper else ""
    raise CheckpointError(
        f"{path}: not the weights of a RegNet of this program, torchvision, timm (no stem with a known name){cure}"
    )


def _check_classifier(
    path: Path, initial: Mapping[str, Tensor], found: dict[str, Tensor], name_in: Callable[[str], str]
) -> None:
    bias, needed = found.get(name_in("head.f_out.bias")), initial["head.f_out.bias"]
    if bias is None or bias.shape != needed.shape:
        head = "has no classifier" if bias is None else f"has a classifier of {bias.numel():,} classes"
        raise CheckpointError(f"{path}: it {head}, but {needed.numel():,} classes are needed. {_NEW_HEAD}")


_NEW_HEAD = "Use --model.head new to initialise a new classifier"


def _convert(path: Path, name: str, value: Tensor, initial: Tensor) -> Tensor:
    """The tensor `name` of the file with the type of the network's tensor."""
    if value.is_floating_point() != initial.is_floating_point() or value.layout is not torch.strided or value.is_meta:
        raise CheckpointError(f"{path}: {name} must be a dense tensor of type {initial.dtype}")
    converted = value.detach().to(initial.dtype)
    if not converted.isfinite().all():
        raise CheckpointError(f"{path}: {name} is not finite")
    if name.endswith("running_var") and (converted < 0).any():
        raise CheckpointError(f"{path}: {name}, a variance, is negative")
    return converted
