"""Rank zero's checkpoints: finds the one to resume from, writes new ones in the background."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from regnet.checkpoint.async_writer import AsyncWriter
from regnet.checkpoint.file import CheckpointError
from regnet.checkpoint.manager import CheckpointManager
from regnet.checkpoint.snapshot import Snapshots
from regnet.checkpoint.state_dicts import map_tensors
from regnet.runs.directory import RunDirectory
from regnet.runs.status import START_OVER
from regnet.tracking.registry import Trackers
from regnet.training.state import check_resumable


class LoadedCheckpoint(NamedTuple):
    path: Path
    contents: dict[str, Any]


class Checkpointer:
    """Saves and finds the checkpoints of one run directory.

    Args:
        pin_memory: for a network on a GPU, see Snapshots.

    Attributes:
        saved: completed epochs and steps of the newest checkpoint on disk.
    """

    def __init__(self, directory: RunDirectory, keep_last: int, pin_memory: bool) -> None:
        self.directory = directory
        self.checkpoints = CheckpointManager(directory.checkpoints, keep_last)
        self.saved = directory.completed
        self._snapshots = Snapshots(pin_memory)
        self._background = AsyncWriter()

    def newest(self) -> LoadedCheckpoint | None:
        """The newest valid checkpoint, if any; none if the run is about to be overwritten.

        If best.pt is lost, and no other checkpoint holds the best epoch, there is no best epoch in `contents`.

        Raises:
            UsageError: it belongs to a different run, or there is none although the run has saved some.
        """
        if self.directory.starts_over:
            return None
        found = self.checkpoints.newest(_report_corrupt)
        if found is None:
            steps = self.directory.completed[1]
            if steps:
                raise CheckpointError(
                    f"{self.checkpoints.directory} has no checkpoint, but the run had completed {steps} steps. "
                    f"{START_OVER}"
                )
            return None
        checkpoint = LoadedCheckpoint(*found)
        check_resumable(checkpoint.path, checkpoint.contents)
        self.directory.check_checkpoint(checkpoint.contents)
        progress = checkpoint.contents["progress"]
        if self._best_is_lost(progress):
            print(f"{self._describe_best(progress)} is lost: the next evaluated epoch becomes best.pt", flush=True)
            progress |= {"best_top1": -1.0, "best_step": -1}
        return checkpoint

    def _best_is_lost(self, progress: dict[str, Any]) -> bool:
        return progress["best_step"] >= 0 and self.checkpoints.find_best(progress) is None

    def _describe_best(self, progress: dict[str, Any]) -> str:
        return f"{self.checkpoints.best} (step {progress['best_step']}, top-1 {progress['best_top1']:.2%})"

    def restore_best(self, progress: dict[str, Any]) -> None:
        """Writes best.pt again if it was lost, or never written, and another checkpoint holds the best epoch."""
        best = self.checkpoints.find_best(progress)
        if best is not None and best != self.checkpoints.best:
            self.directory.writer.write(self.checkpoints.best, best.read_bytes())
            print(f"{self.checkpoints.best}: restored from {best.name}", flush=True)

    def restore_best_of_finished_run(self) -> None:
        """`restore_best`, or a line that says why best.pt cannot be restored."""
        try:
            found = self.checkpoints.newest(_report_corrupt)
        except CheckpointError as error:
            print(error, flush=True)
            return
        if found is None:
            return
        progress = found[1]["progress"]
        if self._best_is_lost(progress):
            print(f"{self._describe_best(progress)} is lost: no other checkpoint holds that epoch", flush=True)
        self.restore_best(progress)

    def save(self, contents: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        """Copies the contents and starts writing them; returns as soon as the previous checkpoint is on disk.

        Raises:
            OSError: writing the previous checkpoint failed twice.
        """
        self._background.wait()  # the copy overwrites the previous one
        copied = self._snapshots.take(contents)
        self._background.start(lambda: self._write(copied, is_best, trackers))

    def _write(self, copied: dict[str, Any], is_best: bool, trackers: Trackers) -> None:
        contents = map_tensors(copied, torch.clone)  # a file holds all of the memory that a tensor is part of
        trackers.sync()  # a resume relies on the metrics up to its checkpoint
        progress = contents["progress"]
        self.checkpoints.save(self.directory.writer, progress["global_step"], contents, is_best)
        self.saved = (progress["epoch"], progress["global_step"])
        self.directory.write_state(*self.saved)

    def wait(self) -> None:
        """Returns when every checkpoint is on disk. Raises the same errors as `save`."""
        self._background.wait()

    def paths(self) -> list[Path]:
        """Numbered checkpoints, oldest first."""
        return self.checkpoints.paths()


def _report_corrupt(message: str) -> None:
    print(f"skipped a corrupt checkpoint: {message}", flush=True)
