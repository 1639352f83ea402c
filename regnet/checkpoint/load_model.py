"""Networks outside of training: newly initialised from a configuration, or trained, from a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from regnet.checkpoint.file import CheckpointError, load, pack
from regnet.checkpoint.pretrained import load_pretrained, read_weights
from regnet.checkpoint.state_dicts import check_same_shapes, evaluated_weights, incomplete
from regnet.config.parser import as_flags, parse_config
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.regnet import Model, initialize_weights

_METADATA_KEYS, _OPTIONAL_KEYS = ("config", "data", "classes", "progress"), ("normalization",)
Normalization = dict[str, tuple[float, ...]]  # mean and std per channel; a byte is scaled to 0..1


@dataclass(frozen=True)
class TrainedModel:
    """A network and its origin.

    Attributes:
        model: on the CPU, in evaluation mode.
        config: of the run.
        classes: names by label.
        epochs: completed epochs of training; 0 for newly initialised weights.
        normalization: of the images that it was trained on; None if unknown.
    """

    model: Model
    config: Config
    classes: tuple[str, ...]
    epochs: int
    normalization: Normalization | None = None


def untrained_model(arguments: Sequence[str], classes: int) -> TrainedModel:
    """The network of a configuration with the weights that a run would start from. Raises UsageError."""
    config = parse_config(arguments)
    torch.manual_seed(config.seed)
    model = Model(config.model.design(), classes)
    initialize_weights(model, config.train.init_std, config.train.zero_init_residual)
    if config.model.weights:
        load_pretrained(model, read_weights(config.model, model.state_dict()).tensors)
    return TrainedModel(model.eval(), config, tuple(f"class_{label}" for label in range(classes)), 0)


def load_trained_model(path: str | Path) -> TrainedModel:
    """The network that the checkpoint's run evaluates: with the EMA weights if there are any.

    Raises:
        CheckpointError: the file cannot be used; one line that names it and the reason.
    """
    path = Path(path)
    saved = load(path)
    weights = evaluated_weights(saved, path)
    try:
        config = parse_config([*as_flags(saved["config"])])
        model = Model(config.model.design(), len(saved["classes"]))
        check_same_shapes(model.state_dict(), weights)
        model.load_state_dict(weights)
        normalization = saved.get("normalization")
        if normalization is not None:
            normalization = {name: tuple(normalization[name]) for name in ("mean", "std")}
        return TrainedModel(model.eval(), config, tuple(saved["classes"]), saved["progress"]["epoch"], normalization)
    except (KeyError, TypeError, AttributeError) as error:
        raise incomplete(path, error) from error
    except UsageError as error:  # its options are those of another version, or do not describe its weights
        raise CheckpointError(f"{path}: {error}") from error


def weights_only_checkpoint(path: str | Path) -> bytes:
    """The content of a checkpoint with nothing but the evaluated weights of this one; runs cannot resume from it.

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = Path(path)
    saved = load(path)
    weights = evaluated_weights(saved, path)
    metadata = {name: saved[name] for name in (*_METADATA_KEYS, *_OPTIONAL_KEYS) if name in saved}
    missing = next((name for name in _METADATA_KEYS if name not in metadata), None)
    if missing is not None:
        raise incomplete(path, KeyError(missing))
    return pack({"model": weights, "ema": None, **metadata})
