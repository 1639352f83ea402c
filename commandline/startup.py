"""The start of a command: before its slow imports, which take seconds."""

import sys

from commandline.errors import InputError
from commandline.interrupts import exit_on_signals
from commandline.paths import check_current_directory


def before_imports() -> None:
    """Checks the current directory. From now on a signal ends the process with one line."""
    require_current_directory()
    exit_on_signals()


def require_current_directory() -> None:
    """Ends the process if its current directory was deleted: importing torch would end it without a reason."""
    try:
        check_current_directory()
    except InputError as error:
        error.report("")
        sys.exit(error.exit_code)
