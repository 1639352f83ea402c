"""The checkpoints of a run: numbered ones, the best, and which to keep or resume from."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regnet.checkpoint.file import CheckpointError, CorruptCheckpoint, load, pack
from regnet.runs.atomic_write import AtomicWriter, make_directory

_NAME = re.compile(r"step-(\d{9})\.pt")


class CheckpointManager:
    """The checkpoints of one run: the last K by step, and the best.

    Args:
        directory: where they are.
        keep_last: K.
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
        """All numbered checkpoints, oldest first; the best is not among them."""
        found = self.directory.glob("step-*.pt")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def save(self, writer: AtomicWriter, step: int, state: dict[str, Any], is_best: bool) -> None:
        """Writes the checkpoint of global step `step`, marks it as the best if it is, removes what is too old."""
        make_directory(self.directory)
        path, packed = self.path(step), pack(state)
        writer.write(path, packed)
        if is_best:
            writer.write(self.best, packed)
        upto = [other for other in self.paths() if other <= path]
        for old in upto[: -self.keep_last]:
            old.unlink()

    def newest(self, on_skip: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint; `passed_over` is told of each damaged one on the way, which is set aside.

        Raises:
            CheckpointError: there are checkpoints, but none that is whole: nobody asked to begin again.
        """
        numbered = (self._whole(path, on_skip) for path in reversed(self.paths()))
        best = self._whole(self.best, on_skip) if self.best.exists() else None
        found = [checkpoint for checkpoint in (next(filter(None, numbered), None), best) if checkpoint is not None]
        if not found and any(self.directory.glob("*.damaged")):
            raise CheckpointError(
                f"{self.directory}: none of the checkpoints is whole; begin again with another --name"
            )
        return max(found, key=lambda checkpoint: checkpoint[1]["progress"]["global_step"], default=None)

    def best_is_at_step(self, step: int) -> bool:
        """Whether the best checkpoint is whole, and of this global step."""
        try:
            return self.best.exists() and load(self.best)["progress"]["global_step"] == step
        except CheckpointError:
            return False

    @staticmethod
    def _whole(path: Path, on_skip: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        try:
            return path, load(path)
        except CorruptCheckpoint as error:
            on_skip(str(error))
            path.rename(path.with_suffix(".damaged"))
            return None
