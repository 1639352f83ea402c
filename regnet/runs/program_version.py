"""Which code a run was trained with, and where: what is recorded of each attempt besides PyTorch and the devices."""

import os
import platform
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def describe_program() -> dict[str, str]:
    """Host, Python and the git commit of this program; without commit outside a clone."""
    found = {"host": socket.gethostname(), "python": platform.python_version(), "commit": git_commit(ROOT)}
    return {name: value for name, value in found.items() if value}


def git_commit(root: Path) -> str:
    """The commit of a clone, with `-dirty` if tracked files were changed; empty if it cannot be found out."""
    if not (root / ".git").exists():  # git would find the repository that an installed package happens to lie in
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # Without optional locks: another process may use git at the same time.
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
