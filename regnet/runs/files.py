"""The files of a run directory, and deleting them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from commandline.durability import sync_directory
from regnet.config.schema import Config
from regnet.runs.event_log import EVENTS
from regnet.runs.status import STATE

CONFIG, RESULT, EVALUATION = "config.yaml", "result.json", "evaluation.npz"
_CHECKPOINTS = (
    "checkpoints/step-*.pt",
    "checkpoints/best.pt",
    "checkpoints/step-*.damaged",
    "checkpoints/best.damaged",
)
# Everything that this program writes into a run directory.
_CONTENTS = (
    RESULT,  # first: without it, an interrupted deletion does not look like a finished run
    *_CHECKPOINTS,
    "report/index.html",
    "report/*.png",
    "wandb",
    "metrics.jsonl",
    EVENTS,
    EVALUATION,
    CONFIG,
    STATE,
)


def run_path(config: Config) -> Path:
    """The run directory."""
    return Path(config.runs_dir) / config.name


def run_contents(directory: Path) -> list[Path]:
    """The files and directories in a run directory that this program wrote."""
    return list(dict.fromkeys(path for pattern in _CONTENTS for path in sorted(directory.glob(pattern))))


def has_started(directory: Path) -> bool:
    """Whether an attempt has recorded its configuration; checkpoints may have been copied here without it."""
    return (directory / CONFIG).exists()


def has_checkpoint(directory: Path) -> bool:
    """Whether there is a checkpoint in a run directory, even a corrupt one."""
    return any(path for pattern in _CHECKPOINTS for path in directory.glob(pattern))


def summary(directory: Path, contents: Sequence[Path]) -> str:
    """Names for people: `checkpoints/, metrics.jsonl`."""
    names = dict.fromkeys(path.relative_to(directory).parts[0] for path in contents)
    return ", ".join(f"{name}/" if (directory / name).is_dir() else name for name in names)


def delete(contents: Sequence[Path]) -> None:
    """Returns when the deletion is durable: no checkpoint may reappear and be resumed from."""
    for path in contents:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # an attempt that lost its lock may be removing old checkpoints
    for parent in {path.parent for path in contents}:
        sync_directory(parent)
