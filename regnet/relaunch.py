"""How a run's latest attempt ended, and what to do next.

python -m regnet.relaunch --launch NAME --limit N -- [the trainer's arguments]

For launchers, which see no more than the exit status of srun or torchrun. It imports no torch, so that it answers
at once. Its own exit status: 0 done, 1 failed for good, 2 wrong usage or input, 3 failed, to be tried again, 75
preempted, to be queued again.
"""

import argparse
import sys
from pathlib import Path

from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.exit_codes import DONE, FAILED, PREEMPTED, USAGE
from regnet.runs.directory import run_path
from regnet.runs.status import RunState, Status, read_state

RETRY = 3


def judge(state: RunState | None, directory: Path, limit: int) -> tuple[int, str]:
    """The exit status and a line for people.

    Args:
        state: what the attempt left, or None if it did not get as far as opening its run.
        limit: attempts in a row without progress after which a run is not started again.
    """
    if state is None:
        return USAGE, "the run was not begun, and would not be the next time: see the error above"
    done = f"{state.epoch} epochs and {state.step} steps are done (attempt {state.attempt})"
    if state.state is Status.finished:
        return DONE, f"finished: {state.reason}; results: {directory}"
    why = f"{state.state}: {state.reason}" if state.reason else "failed: died without a word"
    if state.setbacks >= limit:
        return FAILED, f"{why}; {done}; {state.setbacks} attempts got no further, so it is not started again"
    if state.state is Status.preempted:
        return PREEMPTED, f"{why}; {done}"
    return RETRY, f"{why}; {done}; to be tried again"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m regnet.relaunch", description=__doc__)
    parser.add_argument("--launch", required=True, help="the attempt's REGNET_LAUNCH")
    parser.add_argument("--limit", type=int, default=3, help="attempts without progress (%(default)s)")
    parser.add_argument("arguments", nargs="*", help="the trainer's, after --")
    args = parser.parse_args(argv)
    try:
        directory = run_path(parse_config(args.arguments))
    except UsageError as error:
        print(f"error: {error}", flush=True)
        return USAGE
    state = read_state(directory)
    begun = state is not None and state.launch == args.launch
    status, line = judge(state if begun else None, directory, args.limit)
    print(line, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
