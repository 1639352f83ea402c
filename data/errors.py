"""Errors of the data package."""

from commandline.errors import CommandError, InputError


class DataError(InputError):
    """Missing, damaged or unsuitable input: reported in one line, exit code 2."""


class WriterError(CommandError):
    """A conversion failed for another reason than its images: exit code 1."""


class LoaderError(CommandError):
    """The loader failed or stalled during a run: exit code 1."""
