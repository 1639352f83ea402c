"""The one exception that is the user's to mend."""


class UsageError(Exception):
    """Wrong usage or input: told in one line, exit status 2."""
