"""A Python whose clean-up at the end of a rank fails.

A library's thread that is still running can abort a process in its clean-up; torchrun then fails although every rank
has finished. It happened in 3 of 120 launches on a busy machine.
"""

from pathlib import Path


def failing_clean_up(folder: Path) -> dict[str, str]:
    """Environment variables with which a rank that exits by the interpreter's clean-up exits with code 86."""
    (folder / "sitecustomize.py").write_text(
        "import atexit, os\nif 'RANK' in os.environ:\n    atexit.register(os._exit, 86)\n"
    )
    return {"PYTHONPATH": str(folder)}
