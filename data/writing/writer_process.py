"""A process that writes one shard: its progress, its result, and its end, also when the conversion is killed."""

import ctypes
import errno
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import cv2

from commandline import interrupts
from data.errors import DataError, WriterError
from data.image_encoding import Encoding, load_image
from data.sources.source import Source
from data.writing.shard_writer import Progress, WrittenShard, write_shard

# A forked writer shares the images in its parent's memory (150 MB for CIFAR-100) instead of copying them.
_fork = multiprocessing.get_context("fork")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_OUT_OF_MEMORY = "out of memory; use fewer --workers, or have the limit of memory raised"
_LONGEST_PAUSE = 1.0  # seconds between two checks; more means that this process itself did not run


@dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        path: file name, to which the writer adds a digest.
        indices: indices of the shard's images in the split of the source.
    """

    split: str
    path: Path
    first_id: int
    indices: list[int]


@dataclass(frozen=True)
class BadImages:
    """In place of a shard: the images that cannot be stored.

    Attributes:
        indices: their indices in the split of the source.
        reason: why the first of them cannot be stored.
    """

    indices: list[int]
    reason: str


class WriterProcess:
    """A running writer. The kernel kills it when its parent ends."""

    def __init__(self, task: ShardTask, source: Source, encoding: Encoding, skip_bad: bool) -> None:
        self.task = task
        self._progress = Progress()
        self._last_steps, self._idle, self._last_check = 0, 0.0, time.monotonic()
        self._results, child_end = _fork.Pipe(duplex=False)
        arguments = (os.getpid(), task, source, encoding, skip_bad, self._progress, child_end)
        self._process = ForkProcess(target=_run, args=arguments, daemon=True)
        try:
            self._process.start()
        except OSError as error:
            raise WriterError(
                f"cannot start a writer process ({error.strerror}); use fewer --workers, or have the limit of "
                "processes (ulimit -u) or of memory raised"
            ) from error
        child_end.close()

    @property
    def samples(self) -> int:
        """Number of images stored or rejected so far."""
        return self._progress.samples

    def check(self, timeout: float) -> WrittenShard | BadImages | None:
        """The result, or None while the writer is running.

        Raises:
            DataError: an image cannot be stored.
            WriterError: the writer failed, died, or made no progress for `timeout` seconds.
        """
        if self._results.poll():
            return self._result()
        now = time.monotonic()
        # While this process was stopped (Ctrl-Z), its writers were as well: that time does not count.
        self._idle += min(now - self._last_check, _LONGEST_PAUSE)
        self._last_check = now
        if self._progress.steps != self._last_steps:
            self._last_steps, self._idle = self._progress.steps, 0.0
        elif self._idle > timeout:
            raise WriterError(
                f"{self.task.path.name}: its writer process made no progress for {timeout:g} s after "
                f"{self.samples} of {len(self.task.indices)} images, and was killed; --timeout sets this limit"
            )
        return None

    def _result(self) -> WrittenShard | BadImages:
        try:
            result = self._results.recv()
        except (EOFError, OSError):  # OSError: in the middle of its result
            self._process.join()
            raise WriterError(f"{self.task.path.name}: its writer process died ({self._exit_reason()})") from None
        self._process.join()
        self._results.close()
        if isinstance(result, Exception):
            raise result
        return result

    def _exit_reason(self) -> str:
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def start_writer(
    active: list[WriterProcess], task: ShardTask, source: Source, encoding: Encoding, skip_bad: bool
) -> None:
    """Appends a new writer to the list; a signal cannot separate the two."""
    with interrupts.held_back():
        active.append(WriterProcess(task, source, encoding, skip_bad))


def _run(
    parent: int,
    task: ShardTask,
    source: Source,
    encoding: Encoding,
    skip_bad: bool,
    progress: Progress,
    results: Connection,
) -> None:
    try:
        _die_with(parent)
        cv2.setNumThreads(1)  # there is a writer for every core
        results.send(_write_or_list_bad(task, source, encoding, skip_bad, progress))
    except (DataError, WriterError) as error:
        results.send(error)
    except OSError as error:
        results.send(WriterError(f"{task.path}: {error.strerror or error}"))
    except MemoryError:
        results.send(WriterError(f"{task.path.name}: {_OUT_OF_MEMORY}"))


def _die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends, in whatever way."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _write_or_list_bad(
    task: ShardTask, source: Source, encoding: Encoding, skip_bad: bool, progress: Progress
) -> WrittenShard | BadImages:
    try:
        return write_shard(source, task.split, task.indices, task.first_id, task.path, encoding, progress)
    except DataError as error:
        _check_memory(error, source.name(task.split, task.indices[progress.samples]))
        if not skip_bad:
            raise
        task.path.unlink()
        return _list_bad(task, source, encoding, progress, str(error))


def _list_bad(task: ShardTask, source: Source, encoding: Encoding, progress: Progress, reason: str) -> BadImages:
    """Checks the images from the first bad one on, where the writer stopped."""
    bad = []
    for index in task.indices[progress.samples :]:
        try:
            load_image(source, task.split, index, encoding)
        except DataError as error:
            _check_memory(error, source.name(task.split, index))
            bad.append(index)
        progress.sample()
    return BadImages(bad, reason)


def _check_memory(error: DataError, name: str) -> None:
    """Raises WriterError if an image could not be read because memory was short: it may be a good image."""
    cause = error.__cause__
    if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
        raise WriterError(f"{name}: {_OUT_OF_MEMORY}") from error
