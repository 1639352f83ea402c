"""Which configurations may resume a run."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regnet.config.parser import parse_config
from regnet.config.schema import Config, to_plain_types
from regnet.errors import UsageError
from regnet.runs.files import CONFIG, RESULT, has_checkpoint, has_started
from regnet.runs.status import START_OVER, STATE, RunFormatError, parse_state

# What may change between the attempts of a run: nothing that its results depend on.
_FREE = ("name", "runs_dir", "resume", "overwrite", "checkpoint", "tracking", "distributed")
_FREE_OPTIONS = {
    "data": (
        "shards",
        "local_cache_dir",
        "verify",
        "workers",
        "prefetch_batches",
        "loader_timeout",
        "cache",
        "keep_page_cache",
    ),
    "train": ("epochs", "device", "detect_anomaly", "cudnn_benchmark", "cuda_graphs", "max_minutes"),
    "early_stopping": ("patience",),
}


def holds_progress(directory: Path) -> bool:
    """Whether a directory holds what must not be lost: a checkpoint, even a corrupt one, or a result; or held one."""
    if has_checkpoint(directory) or (directory / RESULT).exists():
        return True
    try:
        return parse_state(directory / STATE).step > 0
    except (OSError, ValueError):
        return False


def check_compatible(directory: Path, config: Config) -> None:
    """Raises UsageError if a directory holds a run that cannot be resumed with this configuration."""
    try:
        with contextlib.suppress(OSError, ValueError):
            parse_state(directory / STATE)
    except RunFormatError as error:
        raise UsageError(f"{error}. {START_OVER}") from error
    if not holds_progress(directory):
        return
    if config.resume == "never":
        raise UsageError(
            f"{directory} already contains a run. Use another --name, --overwrite to delete it and start over, "
            "or --resume auto to resume it"
        )
    if not has_started(directory):
        return
    try:
        created_with = read_config(directory)
    except UsageError as error:
        raise UsageError(f"{error}. {START_OVER}") from error  # it names the file
    check_same_options(directory, to_plain_types(asdict(created_with)), config)


def read_config(directory: Path) -> Config:
    """The configuration of a run that has started. Raises UsageError, which names the file."""
    return parse_config(["--config", str(directory / CONFIG)])


def check_same_options(directory: Path, created_with: dict[str, Any], config: Config) -> None:
    changed = changed_options(created_with, config)
    if changed:
        raise UsageError(f"{directory} was created with a different configuration: {'; '.join(changed)}. {START_OVER}")


def check_same_task(directory: Path, config: Config, data: tuple[str, str], epochs: int) -> None:
    """Raises UsageError if a run was trained on other images, or with a schedule for another number of epochs.

    Args:
        data: identity of the run's images, and of those of this attempt.
        epochs: of the run.
    """
    before, now = data
    if before != now:
        raise UsageError(f"{directory} was trained on different images. {START_OVER}")
    if config.schedule.name != "baseline" and epochs != config.train.epochs:
        best = directory / "checkpoints" / "best.pt"
        weights = f" with --model.weights {best} to continue from its weights" if best.exists() else ""
        raise UsageError(
            f"{directory} was created with a different number of epochs: train.epochs was {epochs}, now "
            f"{config.train.epochs}, and the learning rates of schedule.name {config.schedule.name} depend on it. "
            f"Use another --name{weights}, or --overwrite to start over"
        )


def changed_options(created_with: dict[str, Any], config: Config) -> list[str]:
    """The options that differ although a resume may not change them, each with both values."""
    before, now = fixed_options(created_with), fixed_options(to_plain_types(asdict(config)))
    if config.schedule.name != "baseline" and created_with["train"]["epochs"] != config.train.epochs:
        # Adapted to the number of epochs, which RunDirectory rejects with a message that names it.
        before.pop("schedule.warmup_epochs", None)
        now.pop("schedule.warmup_epochs", None)
    return [
        f"{key} was {_readable(before.get(key))}, now {_readable(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _readable(value: Any) -> str:
    """An option's value as it is written on the command line."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)


def fixed_options(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted options and values of a plain configuration that may not change between the attempts of a run."""
    flat = {}
    for section, value in config.items():
        if section in _FREE:
            continue
        if isinstance(value, dict):
            free = _FREE_OPTIONS.get(section, ())
            flat.update({f"{section}.{name}": entry for name, entry in value.items() if name not in free})
        else:
            flat[section] = value
    return flat
