"""How a dataset is written. Importing this module, unlike the writer, does not import FFCV."""

from dataclasses import dataclass

DEFAULT_SHARDS = 4  # per split, if there are as many images


@dataclass(frozen=True)
class WriterOptions:
    """How a dataset is written.

    Attributes:
        shards: number of shards per split; None for 4, or one per image in smaller splits.
        workers: number of writer processes.
        timeout: seconds without progress after which a writer is killed.
        skip_bad: skip images that cannot be stored, and list them in the manifest.
    """

    shards: int | None
    workers: int
    timeout: float
    skip_bad: bool
