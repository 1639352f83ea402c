"""Writes to disk in the background while training continues."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class AsyncWriter:
    """Runs one job at a time in a thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._job: Callable[[], None] | None = None
        self._future: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Starts a job once the previous one has ended. Raises the same errors as `wait`."""
        self.wait()
        self._job, self._future = job, self._pool.submit(job)

    def wait(self) -> None:
        """Waits for the current job. If it failed, it is retried once: a disk may fail temporarily.

        Raises:
            OSError: the retry failed.
        """
        job, future, self._job, self._future = self._job, self._future, None, None
        if job is None or future is None:
            return
        try:
            future.result()
        except OSError:
            job()
