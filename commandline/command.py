"""The entry of every command: standard streams, errors, interrupts."""

import os
import sys
from collections.abc import Callable, Sequence

from commandline.errors import CommandError, one_line
from commandline.exit_codes import FAILED, INTERRUPTED
from commandline.interrupts import restore_defaults
from commandline.paths import check_current_directory
from commandline.streams import usable_streams


def run_command(
    command: Callable[[list[str]], int], argv: Sequence[str] | None = None, *, output_is_result: bool = False
) -> int:
    """Runs a command; returns its exit code. Errors become a line on standard error, which names the rank if any.

    Args:
        command: takes the command-line arguments; returns an exit code or raises.
        argv: the arguments; None for those of this process.
        output_is_result: the command only prints, so it ends when nobody reads standard output any more. Other commands
            train, convert or write files, and go on without it.
    """
    with usable_streams(output_is_result):
        try:
            restore_defaults()  # here, where KeyboardInterrupt becomes a line
            check_current_directory()
            exit_code = command(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return exit_code
        except CommandError as error:
            error.report(_rank())
            return error.exit_code
        except OSError as error:
            print(f"failed{_rank()}: {one_line(str(error))}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"interrupted by SIGINT{_rank()}", file=sys.stderr)
            return INTERRUPTED


def _rank() -> str:
    """Names this process if a launcher has started several."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    return f" (rank {os.environ.get('RANK', '0')})" if several else ""
