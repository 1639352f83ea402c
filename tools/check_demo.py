"""The last step of `make demo`: prints the accuracy, and fails if it is not far above chance."""

import json
import sys
from pathlib import Path

run, minimum = Path(sys.argv[1]), float(sys.argv[2])
top1 = json.loads((run / "result.json").read_text(encoding="utf-8"))["top1"]
print(f"\nvalidation accuracy {top1:.1%} (chance: 1%); results, checkpoints and report are in {run}/")
sys.exit(0 if top1 > minimum else f"error: the demo's accuracy must exceed {minimum:.0%}, so something is broken")
