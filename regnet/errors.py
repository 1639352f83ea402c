"""Errors that end a run: those that the user can fix, and divergence."""

from commandline.errors import CommandError, InputError


class UsageError(InputError):
    """Wrong usage or input: reported in one line, exit code 2."""


class Diverged(CommandError):
    """Losses, gradients or weights are no longer finite: exit code 1."""
