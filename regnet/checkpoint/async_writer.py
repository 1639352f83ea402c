"""Work beside the training: one job at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class AsyncWriter:
    """A thread for writing to the disk, which the training need not wait for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._job: Callable[[], None] | None = None
        self._done: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Starts a job when the one before it is done; raises what that one raised."""
        self.settle()
        self._job, self._done = job, self._pool.submit(job)

    def settle(self) -> None:
        """Waits for the job under way. A disk may fail for a moment: what it does not take is tried once more.

        Raises:
            OSError: that of the second try.
        """
        job, done, self._job, self._done = self._job, self._done, None, None
        if job is None or done is None:
            return
        try:
            done.result()
        except OSError:
            job()
