"""What decides how a run is reported to Weights & Biases: its options, or wandb's own settings.

An option that is set decides. Otherwise wandb's setting does (a WANDB_ variable, or a settings file such as `wandb
offline` writes); without one, the default here. Imports wandb only when it is asked.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from regnet.config.schema import TrackingConfig

if TYPE_CHECKING:
    from wandb import Settings

_DECIDED_BY_OPTIONS = (
    ("WANDB_PROJECT", "wandb_project"),
    ("WANDB_RUN_GROUP", "wandb_group"),
    ("WANDB_INIT_TIMEOUT", "wandb_timeout"),
    ("WANDB_FINISH_TIMEOUT", "wandb_timeout"),
)
_FALSE = ("", "0", "false", "no", "off", "n", "f")
# wandb's other modes: dryrun and run are old names; rank zero alone reports, so nothing is shared.
_MODES = {"dryrun": "offline", "run": "online", "shared": "online"}


class Mode(NamedTuple):
    """online, offline or disabled, and what decided it."""

    name: Literal["online", "offline", "disabled"]
    reason: str


def prepare_environment(directory: Path) -> None:
    """Sets what wandb reads from the environment alone, unless the user has set it.

    Args:
        directory: of the run. Logs, tables and checkpoints of wandb stay there, also while they wait for their upload:
            the home directory may be full or read-only.
    """
    stored = str((directory / "wandb").absolute())
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # waits for the server for up to 30 s as the process ends
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DATA_DIR", stored)
    os.environ.setdefault("WANDB_CACHE_DIR", stored)


def choose_mode(tracking: TrackingConfig) -> Mode:
    """The mode that the option or, if it is auto, wandb's own settings choose.

    Raises:
        Exception: of wandb, for an invalid setting or if it cannot be imported.
    """
    if tracking.wandb == "disabled":
        return Mode("disabled", "")
    if tracking.wandb == "auto" and wandb_disabled():
        return Mode("disabled", f"WANDB_DISABLED={os.environ['WANDB_DISABLED']}")
    if tracking.wandb == "auto" and os.environ.get("WANDB_MODE") == "disabled":  # without the import of wandb
        return Mode("disabled", "WANDB_MODE=disabled")
    settings = own_settings()
    if tracking.wandb != "auto":
        return Mode(tracking.wandb, "")
    if is_set(settings, "mode"):
        source = f"WANDB_MODE={os.environ['WANDB_MODE']}" if "WANDB_MODE" in os.environ else "wandb's settings file"
        return Mode(_MODES.get(settings.mode, settings.mode), source)  # type: ignore[arg-type]
    from wandb.errors import AuthenticationError

    with contextlib.suppress(AuthenticationError):  # reported by what uses the key
        if not has_credentials():
            return Mode("offline", "no API key")
    return Mode("online", "API key found")


def wandb_disabled() -> bool:
    """Whether WANDB_DISABLED is set to anything but false."""
    return os.environ.get("WANDB_DISABLED", "").lower() not in _FALSE


def own_settings() -> "Settings":
    """wandb's settings, as its files and the environment make them."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def is_set(settings: "Settings", name: str) -> bool:
    """Whether the environment or a settings file sets a setting."""
    return name in settings.model_fields_set and getattr(settings, name) not in (None, "")


def has_credentials() -> bool:
    """Whether wandb finds an API key or a token.

    Raises:
        AuthenticationError: of wandb, for an invalid one.
    """
    from wandb.sdk.lib import wbauth

    host = own_settings().base_url
    return wbauth.authenticate_session(host=host, source="regnet", prompt=False, update_session=False) is not None


def init_settings(tracking: TrackingConfig, name: str, run_id: str, directory: Path) -> dict[str, Any]:
    """The settings of wandb.init that this run overrides."""
    defaults = {"project": "regnet", "run_name": name, "resume": "allow", "console": "off"}
    settings = own_settings()
    chosen = {key: value for key, value in defaults.items() if not is_set(settings, key)}
    given = {"project": tracking.wandb_project, "run_group": tracking.wandb_group}
    chosen |= {key: value for key, value in given.items() if value}
    root = settings.root_dir if is_set(settings, "root_dir") else str(directory)
    timeout = tracking.wandb_timeout
    return {
        **chosen,
        "run_id": run_id,
        "root_dir": os.path.expanduser(root),  # wandb would create a directory called ~
        "init_timeout": timeout,
        "finish_timeout": timeout,
        "finish_timeout_raises": True,
    }


def describe_error(error: Exception) -> str:
    """An error of wandb in one line. For invalid settings, pydantic's text has more than their names and values."""
    if not hasattr(error, "errors"):
        return " ".join(str(error).split()).removesuffix(".")
    return "; ".join(
        f"setting {invalid['loc'][0]}: {invalid['msg']}, got {invalid['input']!r}" if invalid["loc"] else invalid["msg"]
        for invalid in error.errors()
    )


def overruled(tracking: TrackingConfig) -> Iterator[str]:
    """One line about each variable of wandb that an option overrules, and the reverse."""
    option = tracking.wandb
    mode = os.environ.get("WANDB_MODE", "")
    if option != "auto" and mode and _MODES.get(mode, mode) != option:
        yield f"WANDB_MODE={mode} is ignored: tracking.wandb is {option}"
    if option in ("online", "offline") and wandb_disabled():
        yield f"WANDB_DISABLED={os.environ['WANDB_DISABLED']} is ignored: tracking.wandb is {option}"
    if option == "disabled":
        return
    for variable, name in _DECIDED_BY_OPTIONS:
        value, theirs = getattr(tracking, name), os.environ.get(variable, "")
        if value and theirs and theirs != str(value):
            yield f"{variable}={theirs} is ignored: tracking.{name} is {value}"
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if sweep and tracking.wandb_project:
        yield f"tracking.wandb_project {tracking.wandb_project} is ignored: the project is that of sweep {sweep}"
