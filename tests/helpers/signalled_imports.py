"""Runs a module as the main program, which gets a signal when it imports a package:

    python tests/helpers/signalled_imports.py SIGNAL PACKAGE MODULE [ARGUMENT ...]

From outside, the signal might come after the imports.
"""

import os
import runpy
import signal
import sys
from pathlib import Path


class SignallingFinder:
    """Finds no module, and sends the signal once."""

    def __init__(self, number: int, package: str) -> None:
        self.number, self.package = number, package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.package:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), self.number)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    sys.meta_path.insert(0, SignallingFinder(signal.Signals[sys.argv.pop(1)], sys.argv.pop(1)))
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
