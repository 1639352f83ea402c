"""`make lint` reads every source file: an exclusion in pyproject.toml once hid the package regnet/runs/."""

import subprocess
import sys
from pathlib import Path

from limits import LIMIT
from processes import ROOT


def test_ruff_reads_every_python_file_of_the_packages():
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--show-files"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    read = {Path(line) for line in done.stdout.splitlines()}
    folders = ("regnet", "data", "commandline", "benchmarks", "tools", "tests")
    sources = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert sources - read == set()
