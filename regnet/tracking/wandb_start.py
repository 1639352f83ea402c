"""Starts reporting to Weights & Biases: online, offline or not at all."""

import shlex
from collections.abc import Callable

from regnet.config.schema import Config
from regnet.runs.directory import RunDirectory
from regnet.tracking.wandb_parts import offline_parts
from regnet.tracking.wandb_run import WandbRun
from regnet.tracking.wandb_settings import (
    choose_mode,
    describe_error,
    has_credentials,
    overruled,
    prepare_environment,
)
from regnet.tracking.wandb_tracker import WandbTracker


def open_wandb(config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]) -> WandbTracker | None:
    """The tracker as configured, which connects while the run trains; None if wandb is disabled by an option.

    Args:
        steps: completed by the run.
    """
    for line in overruled(config.tracking):
        say(f"Weights & Biases: {line}")
    if config.tracking.wandb == "disabled":
        return None
    prepare_environment(directory.path)
    logged = directory.metrics.stat().st_size  # now: this attempt is about to append its own rows
    return WandbTracker(lambda: _connect(config, directory, logged, say), steps, config.tracking.wandb_timeout, say)


def _connect(config: Config, directory: RunDirectory, logged: int, say: Callable[[str], None]) -> WandbRun | None:
    """The run at Weights & Biases; offline, with a message, if there is no API key or no server."""
    try:
        mode, reason = choose_mode(config.tracking)
    except Exception as error:  # noqa: BLE001  # of the library; nothing may be uploaded against an unknown setting
        say(f"Weights & Biases cannot be used ({describe_error(error)}); --tracking.wandb disabled turns it off")
        return None
    if mode == "disabled":
        say(f"Weights & Biases: disabled ({reason})")
        return None
    if mode == "online":
        run = _connect_online(config, directory, logged, say)
        if run is not None:
            return run
    return _open_offline(config, directory, logged, say)


def _connect_online(
    config: Config, directory: RunDirectory, logged: int, say: Callable[[str], None]
) -> WandbRun | None:
    import wandb

    try:
        if not has_credentials():  # wandb.init would ask for a key at a terminal, and wait
            say("Weights & Biases cannot be used online (no API key: run wandb login, or set WANDB_API_KEY)")
            return None
        run = WandbRun(config, directory, "online", logged, say)
    except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues offline
        say(f"Weights & Biases cannot be used online ({describe_error(error)})")
        wandb.teardown()  # its service still holds the run id and would reject the offline run
        return None
    directory.wandb_url = run.url
    say(f"Weights & Biases: {run.url}")
    return run


def _open_offline(config: Config, directory: RunDirectory, logged: int, say: Callable[[str], None]) -> WandbRun | None:
    try:
        run = WandbRun(config, directory, "offline", logged, say)
    except Exception as error:  # noqa: BLE001  # as above; the run continues without Weights & Biases
        say(
            f"Weights & Biases cannot be used offline ({describe_error(error)}); --tracking.wandb disabled turns it off"
        )
        return None
    earlier = [other for other in offline_parts(run.folder, run.id) if other != run.part]
    # A part of its own command: a kill may empty it, and wandb sync uploads none of the parts if it cannot read one.
    commands = [shlex.join(["wandb", "sync", *map(str, parts)]) for parts in (earlier, [run.part]) if parts]
    say(f"Weights & Biases: logging offline. Upload with: {' && '.join(commands)}")
    return run
