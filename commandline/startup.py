"""The start of a command: before its slow imports, which take seconds."""

import gc
import sys

from commandline.environment import check_libraries
from commandline.errors import InputError
from commandline.interrupts import exit_on_signals
from commandline.paths import check_current_directory


def before_imports() -> None:
    """Checks the directory and the environment. From now on a signal ends the process with one line."""
    require_importable_libraries()
    exit_on_signals()


def require_importable_libraries() -> None:
    """Ends the process with one line where importing torch or Numba would end it with none, or with a traceback."""
    try:
        check_current_directory()
        check_libraries()
    except InputError as error:
        error.report("")
        sys.exit(error.exit_code)


def pause_garbage_collection() -> None:
    """Before the imports: they create no garbage, and a sixth of their time went into looking for it."""
    gc.disable()


def resume_garbage_collection() -> None:
    """After the imports, whose objects stay: no collection during training looks at them again."""
    gc.freeze()
    gc.enable()
