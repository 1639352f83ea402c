"""Runs the trainer with injected faults, on one rank or on all:

    python tests/helpers/fault_injection.py FAULT[:RANK[:STEP]][,FAULT...] --config F ...

FAULT is a method of a base class of `Fault`. Everything else is real: processes, collectives, files. STEP counts this
process's training steps from 1.
"""

import runpy
import sys
from pathlib import Path

from evaluation_faults import EvaluationFaults
from system_faults import SystemFaults
from training_faults import TrainingFaults

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


class Fault(TrainingFaults, EvaluationFaults, SystemFaults):
    """All faults."""


if __name__ == "__main__":
    for text in sys.argv.pop(1).split(","):
        Fault(text).apply()
    runpy.run_path(str(ROOT / "train_ddp.py"), run_name="__main__")
