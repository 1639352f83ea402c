"""Work beside the training: one job at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread for jobs that the training need not wait for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Starts a job when the one before it is done; raises what that one raised."""
        self.settle()
        self._job = self._pool.submit(job)

    def settle(self) -> None:
        """Waits for the job under way; raises what it raised."""
        job, self._job = self._job, None
        if job is not None:
            job.result()
