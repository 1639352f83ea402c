"""The one exception that is the user's to mend."""


class UsageError(Exception):
    """Wrong usage or input: told in one line, exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # libraries quoted in it may use several
