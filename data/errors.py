"""What can be wrong with samples."""


class DataError(Exception):
    """Missing, damaged or foreign input: told in one line, exit status 2."""


class LoaderError(RuntimeError):
    """The loader broke or stalled while a run was under way: exit status 1."""
