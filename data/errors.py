"""Errors of the data package."""


class DataError(Exception):
    """Missing, damaged or unsuitable input: reported in one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        # Messages of libraries may span several lines. Spaces within a line stay: they may belong to a path.
        super().__init__(" ".join(line.strip() for line in message.splitlines() if line.strip()))


class WriterError(RuntimeError):
    """A conversion failed for another reason than its images: exit code 1."""


class LoaderError(RuntimeError):
    """The loader failed or stalled during a run: exit code 1."""
