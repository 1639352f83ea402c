"""Errors that end a command with a line of text and an exit code instead of a traceback."""

import sys

from commandline.exit_codes import FAILED, USAGE


class CommandError(Exception):
    """Failure: exit code 1.

    Attributes:
        exit_code: of the command.
        label: the first word of the printed line.
    """

    exit_code = FAILED
    label = "failed"

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def report(self, rank: str) -> None:
        """Prints the line.

        Args:
            rank: names this process among several, such as " (rank 3)"; empty for a single process.
        """
        print(f"{self.label}{rank}: {self}", file=sys.stderr)


class InputError(CommandError):
    """Wrong usage or input, which the user can correct: exit code 2."""

    exit_code = USAGE
    label = "error"


def one_line(message: str) -> str:
    """The message with its line breaks replaced by spaces: libraries' messages may span several lines."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())
