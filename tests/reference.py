"""Figures of the reference system, for those who keep them beside the repository."""

import csv
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"

needs_baseline_data = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"the figures of the reference system are not in {REFERENCE}"
)


def read_baseline_table(name):
    """The rows of one of its tables."""
    with open(REFERENCE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
