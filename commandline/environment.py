"""Variables of the environment that libraries read when they are imported, and would ignore or fail at."""

import os
from collections.abc import Mapping

from commandline.errors import InputError

INSTALL = "run `tools/install.sh` in the repository, and use its .venv/bin/python"  # if FFCV cannot be imported
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_MAX_DIGITS = 9  # OpenMP would read a longer number modulo 2**32


class VariableError(InputError):
    """A variable that is malformed, missing or impossible.

    Attributes:
        problem: the variable and its value.
        cure: what to do.
    """

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}: {cure}")
        self.problem, self.cure = problem, cure


def check_libraries(env: Mapping[str, str] = os.environ) -> None:
    """Raises VariableError for a variable that OpenMP, MKL or Numba would ignore, or FFCV cannot work with."""
    for name in _THREADS:
        # OpenMP takes a list as well: the number for each level of nested regions.
        numbers = env.get(name, "1").split(",") if name == "OMP_NUM_THREADS" else [env.get(name, "1")]
        if not all(_is_positive(number.strip()) for number in numbers):
            raise VariableError(
                f"{name} must be a positive integer, got {env[name]!r}",
                "set it to the number of threads per process, or unset it",
            )
    if env.get("NUMBA_DISABLE_JIT", "0") != "0":
        problem = f"NUMBA_DISABLE_JIT is {env['NUMBA_DISABLE_JIT']!r}, but FFCV needs Numba's compiler"
        raise VariableError(problem, "unset it")


def _is_positive(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and bool(text.strip("0"))
