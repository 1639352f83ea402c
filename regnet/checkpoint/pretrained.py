"""Starting weights: a state dict of torchvision, of timm or of this program, under this program's names."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from regnet.checkpoint.contents import check_same_shapes, evaluated_weights
from regnet.checkpoint.file import CheckpointError, has_trailer, unpack
from regnet.config.schema import ModelConfig

_IN_BLOCK = re.compile(r"body\.(\d+)\.layers\.(\d+)\.(.+)")
_HEAD, _COUNTER = "head.", ".num_batches_tracked"


@dataclass(frozen=True)
class Names:
    """How a library calls what a RegNet consists of.

    Attributes:
        block: what precedes the names in a block; stage and number count from 1, index from 0.
        layers: its names of those in a block and around the blocks, by this program's.
    """

    block: str
    layers: dict[str, str]

    def __call__(self, own: str) -> str:
        """The name of a tensor that has this name here."""
        layer, _, tensor = own.rpartition(".")
        found = _IN_BLOCK.fullmatch(layer)
        if found is None:
            return f"{self.layers[layer]}.{tensor}"
        stage, index = int(found[1]) + 1, int(found[2])
        block = self.block.format(stage=stage, index=index, number=index + 1)
        return f"{block}.{self.layers[found[3]]}.{tensor}"


_TORCHVISION = Names(
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
_TIMM = Names(
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
_LIBRARIES: dict[str, Callable[[str], str]] = {"this program": str, "torchvision": _TORCHVISION, "timm": _TIMM}


class PretrainedWeights(NamedTuple):
    """What a file gives a network to begin with.

    Attributes:
        tensors: by this program's names, on the CPU.
        description: what was read, in a line.
    """

    tensors: dict[str, Tensor]
    description: str


def read_weights(
    config: ModelConfig, own: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> PretrainedWeights:
    """The tensors of the file `config.weights` for a network whose state dict is `own`.

    All of them, but the classifier's where `config.head` is new, and BatchNorm's counters, which nothing reads, where
    the file has none.

    Args:
        classes: names by label, which a checkpoint of this program knows too; None for any.

    Raises:
        CheckpointError: the file cannot be read, or is of another network or of other classes; a line that names it.
    """
    path = Path(config.weights)
    found, known = _read(path)
    library, name_in = _library(path, found)
    wanted = {name: tensor for name, tensor in own.items() if config.head == "keep" or not name.startswith(_HEAD)}
    wanted = {name: tensor for name, tensor in wanted.items() if not _is_counter(name) or name_in(name) in found}
    if config.head == "keep":
        _check_classes(path, own, found, name_in)
        if classes is not None and known is not None and tuple(classes) != tuple(known):
            raise CheckpointError(f"{path}: a classifier of other classes; --model.head new begins a new one")
    else:
        head = {name_in(name) for name in own if name.startswith(_HEAD)}
        found = {name: tensor for name, tensor in found.items() if name not in head}
    try:
        check_same_shapes({name_in(name): tensor for name, tensor in wanted.items()}, found)
    except CheckpointError as error:
        hint = library == "torchvision" and config.rounding == "nearest"
        remedy = "; some networks of torchvision are those of model.rounding torchvision" if hint else ""
        raise CheckpointError(f"{path}: {error}{remedy}") from error
    tensors = {name: _converted(path, name_in(name), found[name_in(name)], tensor) for name, tensor in wanted.items()}
    count = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    new = "" if config.head == "keep" else "; the head is new"
    return PretrainedWeights(tensors, f"begins with {path}: {count:,} weights and statistics of {library}{new}")


def load_pretrained(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts weights in the place of the network's own; what they lack stays as it is."""
    network.load_state_dict({**network.state_dict(), **weights})


def _is_counter(name: str) -> bool:
    return name.endswith(_COUNTER)


def _read(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Its tensors, and the names of its classes, where it tells: checkpoints of this program do."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if has_trailer(content):
        saved = unpack(path, content)
        return _checked(path, evaluated_weights(saved, path)), saved.get("classes")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content), None
        with warnings.catch_warnings(action="ignore"):  # of pickles that it will refuse anyway
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make an unpickler fail in any way
        kinds = "a state dict of torch.save, .safetensors or a checkpoint of this program"
        raise CheckpointError(f"{path}: not readable as {kinds} ({type(error).__name__})") from error
    return _checked(path, found), None


def _checked(path: Path, found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: no state dict, which is a mapping from names to tensors")
    for name, value in found.items():
        plain = isinstance(value, Tensor) and not (value.is_quantized or value.is_nested or value.is_complex())
        if not isinstance(name, str) or not plain:
            raise CheckpointError(f"{path}: no state dict: {str(name)[:100]} in it is no tensor of plain numbers")
    return found


def _library(path: Path, found: dict[str, Tensor]) -> tuple[str, Callable[[str], str]]:
    for library, name_in in _LIBRARIES.items():
        if name_in("stem.conv_3x3.weight") in found:
            return library, name_in
    raise CheckpointError(f"{path}: no RegNet of {', '.join(_LIBRARIES)} (its stem has another name)")


def _check_classes(
    path: Path, own: Mapping[str, Tensor], found: dict[str, Tensor], name_in: Callable[[str], str]
) -> None:
    theirs, mine = found.get(name_in("head.f_out.bias")), own["head.f_out.bias"]
    if theirs is None or theirs.shape != mine.shape:
        classes = "no classifier" if theirs is None else f"a classifier of {theirs.numel():,} classes"
        raise CheckpointError(
            f"{path}: it has {classes}, {mine.numel():,} are needed; --model.head new begins a new one"
        )


def _converted(path: Path, name: str, value: Tensor, own: Tensor) -> Tensor:
    if value.is_floating_point() != own.is_floating_point() or value.layout is not torch.strided or value.is_meta:
        raise CheckpointError(f"{path}: {name} is no tensor of plain numbers like {own.dtype}")
    converted = value.detach().to(own.dtype)
    if not converted.isfinite().all():
        raise CheckpointError(f"{path}: {name} is not finite")
    if name.endswith("running_var") and (converted < 0).any():
        raise CheckpointError(f"{path}: {name} is below nought, and no variance")
    return converted
