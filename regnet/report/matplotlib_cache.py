"""Where matplotlib keeps its list of fonts if its own directories cannot be written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def matplotlib_cache() -> Iterator[None]:
    """A temporary directory while matplotlib is imported and used, if it needs one.

    matplotlib would make one, print two lines about it, and remove it when Python cleans up, which a run does not wait
    for (see commandline.exit_codes.exit_process).
    """
    if all(map(_is_writable, _directories())):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="regnet-matplotlib-") as directory:
        before = os.environ.get("MPLCONFIGDIR")
        os.environ["MPLCONFIGDIR"] = directory
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
            if before is not None:
                os.environ["MPLCONFIGDIR"] = before


def _directories() -> list[str]:
    """Those of matplotlib's configuration and cache."""
    chosen = os.environ.get("MPLCONFIGDIR")
    if chosen:
        return [chosen]
    home = (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache"))
    return [os.path.join(os.environ.get(name) or os.path.expanduser(default), "matplotlib") for name, default in home]


def _is_writable(directory: str) -> bool:
    if directory.startswith("~"):  # this user has no home directory
        return False
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
