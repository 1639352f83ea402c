"""Starts reporting to Weights & Biases: online, offline or not at all."""

import shlex
from collections.abc import Callable
from pathlib import Path

from regnet.config.schema import Config
from regnet.runs.directory import RunDirectory
from regnet.tracking.wandb_parts import offline_parts
from regnet.tracking.wandb_settings import (
    choose_mode,
    describe_error,
    has_credentials,
    overruled,
    prepare_environment,
)
from regnet.tracking.wandb_tracker import WandbTracker


def open_wandb(config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]) -> WandbTracker | None:
    """The tracker as configured; offline, with a message, if there is no API key or no server.

    Args:
        steps: completed by the run.
    """
    for line in overruled(config.tracking):
        say(f"Weights & Biases: {line}")
    if config.tracking.wandb == "disabled":
        return None
    prepare_environment(directory.path)
    try:
        mode, reason = choose_mode(config.tracking)
    except Exception as error:  # noqa: BLE001  # of the library; nothing may be uploaded against an unknown setting
        say(f"Weights & Biases cannot be used ({describe_error(error)}); --tracking.wandb disabled turns it off")
        return None
    if mode == "disabled":
        say(f"Weights & Biases: disabled ({reason})")
        return None
    if mode == "online":
        tracker = _open_online(config, directory, steps, say)
        if tracker is not None:
            return tracker
    return _open_offline(config, directory, steps, say)


def _open_online(
    config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]
) -> WandbTracker | None:
    import wandb

    try:
        if not has_credentials():  # wandb.init would ask for a key at a terminal, and wait
            say("Weights & Biases cannot be used online (no API key: run wandb login, or set WANDB_API_KEY)")
            return None
        tracker = WandbTracker(config, directory, "online", steps, say)
    except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues offline
        say(f"Weights & Biases cannot be used online ({describe_error(error)})")
        wandb.teardown()  # its service still holds the run id and would reject the offline run
        return None
    directory.wandb_url = tracker.run.url or ""
    say(f"Weights & Biases: {tracker.run.url}")
    return tracker


def _open_offline(
    config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]
) -> WandbTracker | None:
    try:
        tracker = WandbTracker(config, directory, "offline", steps, say)
    except Exception as error:  # noqa: BLE001  # as above; the run continues without Weights & Biases
        say(
            f"Weights & Biases cannot be used offline either ({describe_error(error)}); "
            "--tracking.wandb disabled turns it off"
        )
        return None
    part = Path(tracker.run.settings.sync_dir)
    earlier = [other for other in offline_parts(tracker.folder, tracker.run.id) if other != part]
    # A part of its own command: a kill may empty it, and wandb sync uploads none of the parts if it cannot read one.
    commands = [shlex.join(["wandb", "sync", *map(str, parts)]) for parts in (earlier, [part]) if parts]
    say(f"Weights & Biases: logging offline. Upload with: {' && '.join(commands)}")
    return tracker
