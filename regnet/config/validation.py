"""What a configuration may not say: names that no file can have, and options that exclude one another."""

import re
import unicodedata
from dataclasses import asdict
from typing import Any

from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.design_space import check_resolution


def check_config(config: Config) -> None:
    """Raises UsageError, one line that names the options."""
    _check_names(config)
    _check_images(config)
    _check_training(config)
    _check_schedule(config)


def _check_names(config: Config) -> None:
    _check_texts(asdict(config))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name):
        raise UsageError(f"name is {config.name!r}: it must be letters and digits, and '.', '_', '-' after the first")


def _check_texts(options: dict[str, Any]) -> None:
    """Control characters and halves of surrogate pairs can be in no name of a file."""
    for name, value in options.items():
        if isinstance(value, dict):
            _check_texts(value)
        elif isinstance(value, str) and any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            raise UsageError(f"{name} is {value!r}: a character in it can be in no name of a file")


def _check_images(config: Config) -> None:
    data, augment, design = config.data, config.augment, config.model.design()
    check_resolution(design, data.resolution)
    if data.progressive_resizing_epochs:
        if data.initial_resolution > data.resolution:
            raise UsageError(f"data.initial_resolution is above data.resolution, {data.resolution}")
        if data.progressive_resizing_epochs >= config.train.epochs:
            raise UsageError(
                "data.progressive_resizing_epochs leaves none of train.epochs for images of data.resolution"
            )
        check_resolution(design, data.initial_resolution, "data.initial_resolution")
    if augment.mixup_prob + augment.cutmix_prob > 1:
        raise UsageError(
            "augment.mixup_prob and augment.cutmix_prob are shares of the same samples: together 1 at most"
        )
    if augment.rrc_min_scale and augment.crop_padding:
        raise UsageError("augment.crop_padding moves whole images: with augment.rrc_min_scale it must be 0")
    if augment.rrc_min_scale and data.cache == "device":
        raise UsageError("data.cache device keeps whole images, of which augment.rrc_min_scale takes other parts")


def _check_training(config: Config) -> None:
    train = config.train
    if config.model.weights and (train.init_std or train.zero_init_residual):
        raise UsageError("model.weights brings first weights: train.init_std must be 0, train.zero_init_residual false")
    if train.freeze_backbone and train.drop_path:
        raise UsageError("train.drop_path is of blocks that are trained, and train.freeze_backbone keeps all from it")
    if train.grad_accum_steps > train.batch_size:
        raise UsageError("train.grad_accum_steps is larger than train.batch_size")


def _check_schedule(config: Config) -> None:
    schedule = config.schedule
    if schedule.name != "baseline" and schedule.warmup_epochs >= config.train.epochs:
        raise UsageError("schedule.warmup_epochs leaves none of train.epochs for the fall")
    for rate in ("start_lr", "min_lr"):
        if getattr(schedule, rate) > config.optim.lr:
            raise UsageError(f"schedule.{rate} is above optim.lr, the peak")
