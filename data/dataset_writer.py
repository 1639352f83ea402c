"""Writes a converted dataset: all shards, each in its own process, and then the manifest.

The manifest comes last: an interrupted conversion has none, and is simply run again.
"""

import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import DataError
from data.image_encoding import Encoding, load_image
from data.manifest import MANIFEST, Manifest, write_manifest
from data.sampler import rank_slice
from data.shard_writer import ChannelSums, WrittenShard, write_shard
from data.sources.source import Source

DEFAULT_SHARDS = 4  # per split, if there are as many images

# A forked writer shares the images in its parent's memory (150 MB for CIFAR-100) instead of copying them.
_fork = multiprocessing.get_context("fork")


class WriterError(RuntimeError):
    """A writer process failed, died or stalled, which is not the images' fault: exit code 1."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        indices: indices of the shard's images in the split of the source.
    """

    split: str
    path: Path
    first_id: int
    indices: list[int]


class _Writer:
    """A process that writes one shard, and its progress."""

    def __init__(self, task: ShardTask, source: Source, encoding: Encoding) -> None:
        self.task = task
        self.done: Synchronized = _fork.Value("Q", 0)
        self.last_done, self.last_progress = 0, time.monotonic()
        self.results, child_end = _fork.Pipe(duplex=False)
        self.process = ForkProcess(target=_run_writer, args=(task, source, encoding, self.done, child_end), daemon=True)
        self.process.start()
        child_end.close()

    def check(self, timeout: float) -> WrittenShard | None:
        """The result, or None while the writer is running.

        Raises:
            DataError: an image cannot be stored.
            WriterError: the writer failed, died, or made no progress for `timeout` seconds.
        """
        if self.results.poll():
            try:
                result = self.results.recv()
            except EOFError:
                self.process.join()
                raise WriterError(f"{self.task.path.name}: its writer process died ({self._exit_reason()})") from None
            self.process.join()
            if isinstance(result, Exception):
                raise result
            return result
        if self.done.value != self.last_done:
            self.last_done, self.last_progress = self.done.value, time.monotonic()
        elif time.monotonic() - self.last_progress > timeout:
            raise WriterError(
                f"{self.task.path.name}: its writer process made no progress for {timeout:g} s and was killed; "
                "--timeout sets this limit"
            )
        return None

    def _exit_reason(self) -> str:
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.task.path.with_name(f".{self.task.path.name}.tmp").unlink(missing_ok=True)


def _run_writer(task: ShardTask, source: Source, encoding: Encoding, done: Synchronized, results: Connection) -> None:
    try:
        results.send(write_shard(source, task.split, task.indices, task.first_id, task.path, encoding, done))
    except DataError as error:
        results.send(error)
    except OSError as error:
        results.send(WriterError(f"{task.path.name}: {error}"))


def convert_dataset(
    source: Source,
    out: Path,
    shards: int | None,
    encoding: Encoding,
    workers: int,
    timeout: float,
    skip_bad: bool,
    options: dict[str, Any],
) -> tuple[Manifest, Counter[str]]:
    """Writes all shards, `workers` at a time, then the manifest.

    Args:
        shards: number of shards per split; None for 4, or one per image in smaller splits.
        timeout: seconds without progress after which a writer is killed.
        skip_bad: skip images that cannot be stored, and list them in the manifest.
        options: the options of the conversion, for the manifest.

    Returns:
        the manifest, and the numbers of images that were converted to RGB, by kind.

    Raises:
        DataError: an image cannot be stored, or there are fewer images than shards.
        WriterError: a writer failed, died, or made no progress for `timeout` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    _delete_previous(out)
    tasks, skipped = _plan(source, out, shards, encoding, skip_bad)
    written: dict[Path, WrittenShard] = {}
    pending, active = list(reversed(tasks)), list[_Writer]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("converting", total=sum(len(task.indices) for task in tasks))
        finished = 0
        try:
            while pending or active:
                while pending and len(active) < workers:
                    active.append(_Writer(pending.pop(), source, encoding))
                for writer in list(active):
                    result = writer.check(timeout)
                    if result is None:
                        continue
                    written[writer.task.path] = result
                    finished += len(writer.task.indices)
                    active.remove(writer)
                progress.update(bar, completed=finished + sum(writer.last_done for writer in active))
                time.sleep(0.02)
        finally:
            for writer in active:
                writer.kill()
    sums, converted = ChannelSums(), Counter[str]()
    for task in tasks:
        converted += written[task.path].converted
        if task.split == "train":
            sums.merge(written[task.path].sums)
    mean, std = sums.mean_and_std()
    splits = {
        split: tuple(written[task.path].shard for task in tasks if task.split == split) for split in ("train", "val")
    }
    resolution, classes = encoding.resolution, tuple(source.classes)
    manifest = Manifest(options, resolution, encoding.mixed, classes, mean, std, splits, tuple(skipped))
    write_manifest(out, manifest)
    return manifest, converted


def _delete_previous(out: Path) -> None:
    """Deletes an earlier conversion: without its manifest, its shards are useless and take up space."""
    (out / MANIFEST).unlink(missing_ok=True)
    for split in ("train", "val"):
        for shard in out.glob(f"{split}-*-of-*.beton"):
            shard.unlink()


def _plan(
    source: Source, out: Path, shards: int | None, encoding: Encoding, skip_bad: bool
) -> tuple[list[ShardTask], list[str]]:
    tasks, skipped = [], []
    for split in ("train", "val"):
        indices = list(range(len(source.split(split))))
        if skip_bad:
            bad = [index for index in indices if not _can_be_stored(source, split, index, encoding)]
            skipped += [source.name(split, index) for index in bad]
            indices = sorted(set(indices) - set(bad))
        if not indices:
            raise DataError(f"there are no {split} images that can be stored")
        count = min(DEFAULT_SHARDS, len(indices)) if shards is None else shards
        if len(indices) < count:
            raise DataError(f"{len(indices)} {split} images cannot fill {count} shards; use a smaller --shards")
        for shard in range(count):
            part = rank_slice(len(indices), shard, count)
            path = out / f"{split}-{shard:05d}-of-{count:05d}.beton"
            tasks.append(ShardTask(split, path, part.start, indices[part]))
    return tasks, skipped


def _can_be_stored(source: Source, split: str, index: int, encoding: Encoding) -> bool:
    try:
        load_image(source, split, index, encoding)
    except DataError:
        return False
    return True
