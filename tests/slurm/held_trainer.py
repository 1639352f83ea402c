"""train_ddp.py, whose rank 0 waits in the middle of the run until the test lets it go on, or a signal arrives.

However slow a test is, the run that it is going to interfere with has not ended before. The file `hold` in the project
directory holds the number of steps after which the run waits; while it does, there is a file `held`.
"""

import functools
import os
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HOLD, HELD = Path("hold"), Path("held")


@functools.cache
def metrics() -> Path:
    from regnet.config.parser import parse_config
    from regnet.runs.directory import run_path

    return run_path(parse_config(sys.argv[1:])) / "metrics.jsonl"


def held() -> bool:
    try:
        limit = int(HOLD.read_text())
    except FileNotFoundError:
        return False
    return (metrics().read_text().count('"kind": "step"') if metrics().exists() else 0) >= limit


def hold_this_rank() -> None:
    """Waits where the trainer asks whether it is preempted: before the first step of an attempt, and after each one."""
    from regnet.distributed.preemption import PreemptionNotice  # without torch: the signal handlers must not be late

    original = PreemptionNotice.reason.fget

    def reason(notice: PreemptionNotice) -> str | None:
        in_training = sys._getframe(1).f_code.co_name in ("_fit", "train_epoch")
        while in_training and original(notice) is None and held():
            HELD.touch()
            time.sleep(0.05)
        return original(notice)

    PreemptionNotice.reason = property(reason)


if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        hold_this_rank()
    runpy.run_path(str(ROOT / "train_ddp.py"), run_name="__main__")
