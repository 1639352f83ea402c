"""Errors that end a run: those that the user can fix, and divergence."""


class UsageError(Exception):
    """Wrong usage or input: reported in one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # quoted messages of libraries may span several lines


class Diverged(Exception):
    """Losses, gradients or weights are no longer finite: exit code 1."""
