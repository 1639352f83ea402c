"""Errors of the data package."""


class DataError(Exception):
    """Missing, damaged or unsuitable input: reported in one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # messages of libraries may span several lines


class LoaderError(RuntimeError):
    """The loader failed or stalled during a run: exit code 1."""
