"""Tables measured on the original one-GPU program (the baseline), if they are present next to the repository."""

import csv

import pytest
from processes import ROOT

BASELINE_DATA = ROOT.parent / "shared" / "reference"

needs_baseline_data = pytest.mark.skipif(
    not BASELINE_DATA.is_dir(), reason=f"the baseline's tables are not in {BASELINE_DATA}"
)


def read_baseline_table(name):
    """The rows of one table."""
    with open(BASELINE_DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
