"""A run's checkpoint files: which to keep, and which to resume from."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regnet.checkpoint.file import CheckpointError, CheckpointFormatError, CorruptCheckpoint, load, pack
from regnet.checkpoint.state_dicts import incomplete
from regnet.runs.atomic_write import AtomicWriter
from regnet.runs.status import START_OVER

_NAME = re.compile(r"step-(\d{9})\.pt")


class CheckpointManager:
    """The last checkpoints of a run, by step, and the best one.

    Args:
        directory: that contains them.
        keep_last: number of numbered checkpoints to keep.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}.pt"

    @property
    def best(self) -> Path:
        return self.directory / "best.pt"

    def paths(self) -> list[Path]:
        """All numbered checkpoints, oldest first, without best.pt."""
        found = self.directory.glob("step-*.pt")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def save(self, writer: AtomicWriter, step: int, state: dict[str, Any], is_best: bool) -> None:
        """Writes the checkpoint of a global step, also as best.pt if it is the best, and deletes outdated ones."""
        path, packed = self.path(step), pack(state)
        writer.write(path, packed)
        if is_best:
            writer.write(self.best, packed)
        until_now = [other for other in self.paths() if other <= path]
        for outdated in until_now[: -self.keep_last]:
            outdated.unlink()

    def newest(self, on_corrupt: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Path and contents of the newest valid checkpoint; None if there are no checkpoints.

        Args:
            on_corrupt: called with a message for each corrupt checkpoint that is found, which is renamed to .damaged.

        Raises:
            CheckpointError: none of the checkpoints is valid, and nobody has asked to start over; or the newest one is
                of another version of this program.
        """
        numbered = (self._load_valid(path, on_corrupt) for path in reversed(self.paths()))
        best = self._load_valid(self.best, on_corrupt) if self.best.exists() else None
        found = [checkpoint for checkpoint in (next(filter(None, numbered), None), best) if checkpoint is not None]
        if not found and any(self.directory.glob("*.damaged")):
            raise CheckpointError(f"{self.directory}: none of the checkpoints is valid. {START_OVER}")
        return max(found, key=lambda checkpoint: checkpoint[1]["progress"]["global_step"], default=None)

    def find_best(self, progress: dict[str, Any]) -> Path | None:
        """The valid checkpoint of the best epoch: best.pt or a numbered one.

        Args:
            progress: of a checkpoint of the run, which knows that epoch's last global step and accuracy.
        """
        for path in (self.best, self.path(progress["best_step"])):
            if path.exists() and _is_of_best_epoch(path, progress):
                return path
        return None

    @staticmethod
    def _load_valid(path: Path, on_corrupt: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        try:
            contents = load(path)
            if "progress" not in contents:
                raise incomplete(path, KeyError("progress"))
            return path, contents
        except CorruptCheckpoint as error:
            on_corrupt(str(error))
            path.rename(path.with_suffix(".damaged"))
            return None
        except CheckpointFormatError as error:
            raise CheckpointError(f"{error}. {START_OVER}") from error


def _is_of_best_epoch(path: Path, progress: dict[str, Any]) -> bool:
    """Whether a valid checkpoint was written after the evaluation of the best epoch.

    The accuracy is compared as well: another run's best.pt may be of the same step.
    """
    try:
        found = load(path)["progress"]
    except CheckpointError:
        return False
    expected = progress["best_step"], progress["best_step"], progress["best_top1"]
    return (found["global_step"], found["best_step"], found["best_top1"]) == expected
