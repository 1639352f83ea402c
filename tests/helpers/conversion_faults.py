"""Runs the conversion with an injected fault:

    python tests/helpers/conversion_faults.py FAULT[:N] --source S --out DIR ...

FAULT is a method of `Fault`. Everything else is real: processes, signals, files.
"""

import errno
import fcntl
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import no_locks
from limits import LIMIT

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def raise_(error: BaseException) -> NoReturn:
    raise error


class Fault:
    """A fault, and the number of the call in which it occurs, from 1."""

    def __init__(self, text: str) -> None:
        self.name, _, number = text.partition(":")
        self.number = int(number or 1)
        self.calls = 0
        self.process = os.getpid()

    def apply(self) -> None:
        getattr(self, self.name)()

    def before(self, module, function: str, action, only_in_this_process: bool = False) -> None:
        """Calls action() before the given call of a function."""
        original = getattr(module, function)

        def replacement(*args, **options):
            if not only_in_this_process or os.getpid() == self.process:
                self.calls += 1
                if self.calls == self.number:
                    action()
            return original(*args, **options)

        setattr(module, function, replacement)

    def before_sample(self, action) -> None:
        """Each writer counts its own samples."""
        import data.writing.shard_writer

        self.before(data.writing.shard_writer, "load_image", action)

    def killed_in_sample(self) -> None:
        """The process that runs the writers is killed; the writer, which wrote down its id, goes on for ever."""
        self.before_sample(lambda: (self.record_process(), os.kill(self.process, signal.SIGKILL), time.sleep(LIMIT)))

    def killed_before_a_writer_is_bound_to_it(self) -> None:
        """The writer, which wrote down its id, asks the kernel too late to end it with its parent.

        It would block in its first sample.
        """
        import data.writing.writer_process

        def orphan() -> None:
            self.record_process()
            os.kill(self.process, signal.SIGKILL)
            while os.getppid() == self.process:
                time.sleep(0.01)

        self.before(data.writing.writer_process, "_die_with", orphan)
        Fault("blocked_in_sample").apply()

    def blocked_in_sample(self) -> None:
        self.before_sample(lambda: (self.record_process(), time.sleep(LIMIT)))

    def killed_writer(self) -> None:
        """One writer is killed, as by the kernel when memory is short; the others block."""
        self.before_sample(lambda: self.signal_one_writer(signal.SIGKILL))

    def stopped_writer(self) -> None:
        """One writer is stopped and does not react to signals that can be caught; the others block."""
        self.before_sample(lambda: self.signal_one_writer(signal.SIGSTOP))

    def signal_one_writer(self, number: int) -> None:
        """The last of two writers to begin gets the signal."""
        self.record_process()
        if len(os.listdir(os.environ["WRITERS"])) == 2:
            os.kill(os.getpid(), number)
        time.sleep(LIMIT)

    def record_process(self) -> None:
        Path(os.environ["WRITERS"], str(os.getpid())).touch()

    def slow_samples(self) -> None:
        """Every sample takes 0.2 s, and no flush to a busy disk takes longer."""
        import data.writing.shard_writer

        original = data.writing.shard_writer.load_image
        data.writing.shard_writer.load_image = lambda *args: (time.sleep(0.2), original(*args))[1]
        os.fsync = lambda file: None

    def killed_before_rename(self) -> None:
        """Not in a writer: those of the shards and of the manifest that the conversion puts in place."""
        self.before(os, "rename", lambda: os.kill(os.getpid(), signal.SIGKILL), only_in_this_process=True)

    def killed_before_unlink(self) -> None:
        self.before(os, "unlink", lambda: os.kill(os.getpid(), signal.SIGKILL), only_in_this_process=True)

    def interrupted_before_rename(self) -> None:
        self.before(os, "rename", lambda: os.kill(os.getpid(), signal.SIGTERM), only_in_this_process=True)

    def interrupted_before_unlink(self) -> None:
        self.before(os, "unlink", lambda: os.kill(os.getpid(), signal.SIGTERM), only_in_this_process=True)

    def out_of_memory(self) -> None:
        """When an image is decoded; each writer counts its own images."""
        import data.image_encoding

        self.before(data.image_encoding, "to_rgb", lambda: raise_(MemoryError()))

    def out_of_memory_outside_images(self) -> None:
        self.before_sample(lambda: raise_(MemoryError()))

    def converted_before_the_lock(self) -> None:
        """The same command converts before this process takes the lock of --out."""
        import data.convert
        import data.writing.output_directory

        command = sys.argv[1:]
        self.before(data.writing.output_directory, "_take_lock", lambda: data.convert.main(command))

    def too_many_processes(self) -> None:
        self.before(os, "fork", lambda: raise_(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))))

    def no_locks(self) -> None:
        fcntl.flock = no_locks.flock


if __name__ == "__main__":
    fault = Fault(sys.argv.pop(1))
    fault.apply()
    sys.modules.pop("data.convert", None)  # as in a fresh process, where it is not imported yet
    runpy.run_module("data.convert", run_name="__main__", alter_sys=True)
