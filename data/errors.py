"""Errors of the data package."""

from collections.abc import Iterator
from contextlib import contextmanager

from commandline.environment import INSTALL
from commandline.errors import CommandError, InputError


class DataError(InputError):
    """Missing, damaged or unsuitable input: reported in one line, exit code 2."""


class WriterError(CommandError):
    """A conversion failed for another reason than its images: exit code 1."""


class LoaderError(CommandError):
    """The loader failed or stalled during a run: exit code 1."""


@contextmanager
def import_errors() -> Iterator[None]:
    """Turns a failed import of FFCV, numba or OpenCV into a DataError: a system library may be missing."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise DataError(f"FFCV or a library that it needs cannot be imported ({error}): {INSTALL}") from error
