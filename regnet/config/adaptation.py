"""Adapts options that contradict one another, or the data, where that is harmless; each change comes with a note."""

from dataclasses import replace

from regnet.config.schema import Config
from regnet.config.validation import validate_config
from regnet.errors import UsageError

MIXED_SIZES_MIN_SCALE = 0.25  # as in configs/folder.yaml


def resolve_conflicts(config: Config) -> tuple[Config, list[str]]:
    """Adapts options to one another; the result and a line about each change.

    * schedule.warmup_epochs that leaves no epoch for the decay becomes half of train.epochs, rounded down; the baseline
      schedule may end during its warm-up.
    * augment.crop_padding becomes 0 with augment.rrc_min_scale, which crops the images itself.
    """
    notes = []
    schedule, epochs = config.schedule, config.train.epochs
    if schedule.name != "baseline" and schedule.warmup_epochs >= epochs:
        warmup = epochs // 2
        notes.append(
            f"schedule.warmup_epochs reduced from {schedule.warmup_epochs} to {warmup}: train.epochs is {epochs}"
        )
        config = replace(config, schedule=replace(schedule, warmup_epochs=warmup))
    if config.augment.rrc_min_scale and config.augment.crop_padding:
        notes.append("augment.crop_padding set to 0: augment.rrc_min_scale crops the images itself")
        config = replace(config, augment=replace(config.augment, crop_padding=0))
    return config, notes


def adapt_to_dataset(config: Config, mixed: bool, samples: int) -> tuple[Config, list[str]]:
    """Adapts options to a dataset; the result and a line about each change.

    * augment.rrc_min_scale becomes 0.25 for images stored in their own shapes, which cannot be used whole.
    * train.batch_size is reduced to the number of training images.

    Args:
        config: already adapted by `resolve_conflicts`.
        mixed: the dataset stores images in their own shapes.
        samples: number of training images.

    Raises:
        UsageError: an option excludes the adapted one; the message explains what was adapted.
    """
    notes = []
    if mixed and not config.augment.rrc_min_scale:
        notes.append(
            f"augment.rrc_min_scale set to {MIXED_SIZES_MIN_SCALE}: this dataset stores images in their own shapes"
        )
        config = replace(config, augment=replace(config.augment, rrc_min_scale=MIXED_SIZES_MIN_SCALE))
        config, further = resolve_conflicts(config)
        notes += further
    if config.train.batch_size > samples:
        images = f"{samples} training image{'s' if samples > 1 else ''}"
        notes.append(f"train.batch_size reduced from {config.train.batch_size} to {samples}: there are {images}")
        config = replace(config, train=replace(config.train, batch_size=samples))
    try:
        validate_config(config)
    except UsageError as error:
        raise UsageError(f"{error} ({'; '.join(notes)})") from error
    return config, notes


def reduce_workers(config: Config, threads: int) -> tuple[Config, list[str]]:
    """Reduces data.workers to the threads that this process may use; the result and a line about the change.

    Other nodes may offer more threads, so the result is not stored with the run.
    """
    workers = config.data.workers
    if workers <= threads:
        return config, []
    usable = f"{threads} thread{'s' if threads > 1 else ''}"
    note = f"data.workers reduced from {workers} to {threads}: this process may use {usable}"
    return replace(config, data=replace(config.data, workers=threads)), [note]
