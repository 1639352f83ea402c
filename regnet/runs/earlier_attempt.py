"""What an attempt continues: the run in its directory, a run that has not got far enough to be protected, or a copy."""

import os
import uuid
from dataclasses import asdict, replace
from pathlib import Path

from regnet.config.schema import Config, to_plain_types
from regnet.errors import UsageError
from regnet.runs.compatibility import (
    changed_options,
    check_compatible,
    check_same_task,
    holds_progress,
    read_config,
)
from regnet.runs.files import has_started, run_path
from regnet.runs.status import STATE, RunState, parse_state, read_state

_NOT_IN_WANDB_IDS = ":;,#?/'"


def earlier_attempt(directory: Path, config: Config, data: str) -> RunState | None:
    """The state of the run in a directory, after checking that this attempt may continue it; None for a new run.

    A run without a checkpoint and a copy of another run get a new id at Weights & Biases; a line says so.

    Args:
        data: identity of the images.

    Raises:
        UsageError: it may not continue the run.
    """
    # A restart of a job that has overwritten the run resumes it.
    check_compatible(directory, replace(config, resume="auto") if config.overwrite else config)
    before = read_state(directory)
    if before is None or not has_started(directory):
        return before
    if holds_progress(directory):
        check_same_task(directory, config, (before.data, data), before.epochs)
    elif changes := _changes(directory, before, config, data):
        print(f"{directory} has no checkpoint: it starts again with other options: {'; '.join(changes)}", flush=True)
        return replace(before, wandb_id=new_wandb_id(), wandb_url="")
    original = _original(directory, before)
    if original is not None:
        print(f"{directory} is a copy of {original}: a new run for Weights & Biases", flush=True)
        return replace(before, wandb_id=new_wandb_id(), wandb_url="")
    return before


def choose_wandb_id(before: RunState | None) -> str:
    """The run's id at Weights & Biases: WANDB_RUN_ID, that of the earlier attempt, or a new one.

    Raises:
        UsageError: Weights & Biases does not accept WANDB_RUN_ID, which all further attempts would use.
    """
    chosen = os.environ.get("WANDB_RUN_ID", "")
    if chosen != chosen.strip() or set(chosen) & set(_NOT_IN_WANDB_IDS):
        raise UsageError(
            f"WANDB_RUN_ID={chosen!r} is invalid: it must neither begin nor end with whitespace, nor contain any of "
            f"{_NOT_IN_WANDB_IDS}"
        )
    return chosen or (new_wandb_id() if before is None else before.wandb_id)


def new_wandb_id() -> str:
    return uuid.uuid4().hex[:8]


def _changes(directory: Path, before: RunState, config: Config, data: str) -> list[str]:
    """What is different from the last attempt of a run that is not protected."""
    try:
        created_with = to_plain_types(asdict(read_config(directory)))
    except UsageError as error:
        return [f"the earlier ones cannot be read ({error})"]
    changes = changed_options(created_with, config)
    if before.epochs != config.train.epochs:
        changes.append(f"train.epochs was {before.epochs}, now {config.train.epochs}")
    if before.data != data:
        changes.append("the images are different")
    return changes


def _original(directory: Path, before: RunState) -> Path | None:
    """The run of which a directory is a copy, if that is still in its place: both have the same id."""
    try:
        path = run_path(read_config(directory))
        original = Path(before.directory) / path
        if original.samefile(directory) or parse_state(original / STATE).wandb_id != before.wandb_id:
            return None
    except (OSError, ValueError, UsageError):  # there is no such run, or not one that this attempt could read
        return None
    return path
