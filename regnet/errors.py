"""What ends a run: what the user can mend, and a training that has run away."""


class UsageError(Exception):
    """Wrong usage or input: told in one line, exit status 2."""

    exit_status = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # libraries quoted in it may use several


class Diverged(Exception):
    """Losses, gradients or weights are no longer numbers: exit status 1."""
