"""Rejects configurations that cannot work: invalid names, and options that exclude one another."""

import re
import unicodedata
from dataclasses import asdict
from typing import Any

from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.design_space import check_resolution

_LONGEST_NAME = 255  # of a file, on Linux


def validate_config(config: Config) -> None:
    """Raises UsageError: one line that names the options, their values and the remedy."""
    _check_texts(asdict(config))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise UsageError(
            f"name must start with a letter or digit and contain only letters, digits, '.', '_' and '-', "
            f"got {config.name!r}"
        )
    if len(config.name) > _LONGEST_NAME:
        raise UsageError(
            f"name must have at most {_LONGEST_NAME} characters, got {len(config.name)}: it names a directory"
        )
    for name, path in (("runs_dir", config.runs_dir), ("data.shards", config.data.shards)):
        if not path:
            raise UsageError(f"{name} must not be empty (the current directory is .)")
    _check_data(config)
    _check_training(config)
    _check_schedule(config)


def _check_texts(options: dict[str, Any], prefix: str = "") -> None:
    """Rejects control characters and unpaired surrogates, which no file name may contain."""
    for key, value in options.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            _check_texts(value, f"{name}.")
        elif isinstance(value, str):
            categories = {unicodedata.category(character) for character in value}
            if "Cc" in categories:
                raise UsageError(f"{name} must not contain control characters, got {value!r}")
            if "Cs" in categories:  # how Python reads bytes that are not in the encoding of the locale
                raise UsageError(f"{name} must be text that the locale can encode, such as UTF-8, got {value!r}")


def _check_data(config: Config) -> None:
    data, augment, design = config.data, config.augment, config.model.design()
    check_resolution(design, data.resolution)
    if data.progressive_resizing_epochs:
        if data.initial_resolution > data.resolution:
            raise UsageError(
                f"data.initial_resolution ({data.initial_resolution}) must not exceed "
                f"data.resolution ({data.resolution})"
            )
        if data.progressive_resizing_epochs >= config.train.epochs:
            raise UsageError(
                f"data.progressive_resizing_epochs ({data.progressive_resizing_epochs}) must be smaller than "
                f"train.epochs ({config.train.epochs}): the last epochs train at data.resolution"
            )
        check_resolution(design, data.initial_resolution, "data.initial_resolution")
    if augment.mixup_prob + augment.cutmix_prob > 1:
        raise UsageError(
            f"augment.mixup_prob ({augment.mixup_prob:g}) and augment.cutmix_prob ({augment.cutmix_prob:g}) must add "
            "up to at most 1: a sample gets either Mixup or CutMix"
        )
    if augment.rrc_min_scale and data.cache == "device":
        raise UsageError(
            f"data.cache device keeps whole images and cannot be combined with augment.rrc_min_scale "
            f"({augment.rrc_min_scale:g}): set data.cache to auto or none"
        )


def _check_training(config: Config) -> None:
    train = config.train
    if config.model.weights and train.init_std:
        raise UsageError(
            f"train.init_std ({train.init_std:g}) must be 0 with model.weights, which replace the initialisation"
        )
    if config.model.weights and train.zero_init_residual:
        raise UsageError("train.zero_init_residual must be false with model.weights, which replace the initialisation")
    if train.freeze_backbone and train.drop_path:
        raise UsageError(
            f"train.drop_path ({train.drop_path:g}) must be 0 with train.freeze_backbone: "
            "frozen blocks are never skipped"
        )
    if train.grad_accum_steps > train.batch_size:
        raise UsageError(
            f"train.grad_accum_steps ({train.grad_accum_steps}) must not exceed train.batch_size ({train.batch_size})"
        )


def _check_schedule(config: Config) -> None:
    schedule, peak = config.schedule, config.optim.lr
    for name, rate in (("start_lr", schedule.start_lr), ("min_lr", schedule.min_lr)):
        if rate > peak:
            raise UsageError(f"schedule.{name} ({rate:g}) must not exceed optim.lr ({peak:g}), the peak learning rate")
