"""Rank zero's checkpoints: finds the one to resume from, writes new ones in the background."""

from pathlib import Path
from typing import Any, NamedTuple

from regnet.checkpoint.async_writer import AsyncWriter
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.directory import RunDirectory
from regnet.runs.status import Status
from regnet.tracking.registry import Trackers


class LoadedCheckpoint(NamedTuple):
    path: Path
    contents: dict[str, Any]


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

    def newest(self) -> LoadedCheckpoint | None:
        """The newest valid checkpoint, if any; none if the run is about to be overwritten.

        Raises:
            UsageError: it belongs to a different run, or none of the checkpoints is valid.
        """
        if self.directory.starts_over:
            return None
        found = self.checkpoints.newest(lambda why: print(f"skipped a corrupt checkpoint: {why}", flush=True))
        if found is None:
            return None
        checkpoint = LoadedCheckpoint(*found)
        self.directory.check_checkpoint(checkpoint.contents)
        return checkpoint

    def restore_best(self, contents: dict[str, Any]) -> None:
        """Writes best.pt again if `contents` is the best checkpoint and the process was killed before writing it."""
        progress = contents["progress"]
        best = progress["best_step"]
        if best == progress["global_step"] and not self.checkpoints.best_is_at_step(best):
            self.checkpoints.save(self.directory.writer, best, contents, is_best=True)

    def save(self, contents: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        """Starts writing a checkpoint; returns as soon as the previous one is on disk.

        Args:
            contents: on the CPU, not changed afterwards.

        Raises:
            OSError: writing the previous checkpoint failed twice.
        """
        self._background.start(lambda: self._write(contents, is_best, trackers))

    def _write(self, contents: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        trackers.sync()  # a resume relies on the metrics up to its checkpoint
        progress = contents["progress"]
        self.checkpoints.save(self.directory.writer, progress["global_step"], contents, is_best)
        self.saved = (progress["epoch"], progress["global_step"])
        self.directory.write_state(Status.running, *self.saved)

    def wait(self) -> None:
        """Returns when every checkpoint is on disk. Raises the same errors as `save`."""
        self._background.wait()

    def paths(self) -> list[Path]:
        """Numbered checkpoints, oldest first."""
        return self.checkpoints.paths()
