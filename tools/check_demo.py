"""Ends `make demo`: says what was reached, and fails if it is not far above chance."""

import json
import sys
from pathlib import Path

run, bar = Path(sys.argv[1]), float(sys.argv[2])  # chance is 0.01
top1 = json.loads((run / "result.json").read_text(encoding="utf-8"))["top1"]
print(f"\n{top1:.1%} of the test images right, chance is 1%. Everything about the run: {run}/")
sys.exit(0 if top1 > bar else f"the demo should pass {bar:.0%}: something is broken")
