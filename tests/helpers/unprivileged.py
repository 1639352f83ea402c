"""Runs a module as a user for whom file permissions count, also where the tests run as root:

python tests/helpers/unprivileged.py MODULE OPTIONS...
"""

import ctypes
import runpy
import sys
from pathlib import Path

_VERSION_3 = 0x20080522  # of Linux's capset
_IGNORE_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


def respect_permissions() -> None:
    """Gives up root's right to ignore them, for the rest of the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for further capabilities
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for index in range(3):
        sets[index] &= ~_IGNORE_PERMISSIONS
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    respect_permissions()
    module = sys.argv.pop(1)
    sys.modules.pop(module, None)  # as in a fresh process, where it is not imported yet
    runpy.run_module(module, run_name="__main__", alter_sys=True)
