"""What can be wrong with samples."""


class DataError(Exception):
    """Missing, damaged or foreign input: told in one line, exit status 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # libraries quoted in it may use several


class LoaderError(RuntimeError):
    """The loader broke or stalled while a run was under way: exit status 1."""
