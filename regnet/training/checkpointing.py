"""Rank zero's checkpoints: finds the one to resume from, writes new ones in the background."""

from pathlib import Path
from typing import Any

from regnet.checkpoint.async_writer import AsyncWriter
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.directory import RunDirectory
from regnet.runs.status import Status
from regnet.tracking.registry import Trackers

Found = tuple[Path, dict[str, Any]]  # a checkpoint's file and contents


class Checkpointer:
    """Saves and finds the checkpoints of one run directory.

    Attributes:
        saved: completed epochs and steps of the newest checkpoint on disk.
    """

    def __init__(self, directory: RunDirectory, keep_last: int) -> None:
        self.directory = directory
        self.checkpoints = CheckpointManager(directory.checkpoints, keep_last)
        self.saved = directory.completed
        self._background = AsyncWriter()

    def newest(self) -> Found | None:
        """The newest valid checkpoint, if any.

        Raises:
            UsageError: it belongs to a different run, or none of the checkpoints is valid.
        """
        found = self.checkpoints.newest(lambda why: print(f"skipped a corrupt checkpoint: {why}", flush=True))
        if found is not None:
            self.directory.check_checkpoint(found[1])
        return found

    def restore_best(self, contents: dict[str, Any]) -> None:
        """Writes best.pt again if these are the contents of the best checkpoint and its writer was killed before."""
        progress = contents["progress"]
        best = progress["best_step"]
        if best == progress["global_step"] and not self.checkpoints.best_is_at_step(best):
            self.checkpoints.save(self.directory.writer, best, contents, is_best=True)

    def save(self, contents: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        """Starts writing a checkpoint; returns as soon as the one before it is on disk.

        Args:
            contents: on the CPU, not changed afterwards.

        Raises:
            OSError: the checkpoint before this one could not be written, twice.
        """
        self._background.start(lambda: self._write(contents, is_best, trackers))

    def _write(self, contents: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        trackers.sync()  # a resume relies on the metrics up to its checkpoint
        progress = contents["progress"]
        self.checkpoints.save(self.directory.writer, progress["global_step"], contents, is_best)
        self.saved = (progress["epoch"], progress["global_step"])
        self.directory.write_state(Status.running, *self.saved)

    def wait(self) -> None:
        """Returns when every checkpoint is on disk. Raises what `save` does."""
        self._background.wait()

    def paths(self) -> list[Path]:
        """Numbered checkpoints, oldest first."""
        return self.checkpoints.paths()
