"""Decides what a launcher does after an attempt of a run has ended: nothing, start it again, or requeue the job.

python -m regnet.relaunch --check -- [trainer options]
python -m regnet.relaunch --launch NAME --limit N -- [trainer options]

A launcher sees only the exit code of srun or torchrun. The exit code of this command is 0 if the run is finished, 1 if
it failed for good, 2 if it did not start (see the printed error), 3 if it failed and should be started again, and 75 if
it was preempted and should be requeued. It prints how the attempt ended and, on a second line, the options that the
same command needs to resume the run as another job, if any.

With --check, before the first attempt, it prints nothing; the exit code is 2 if the options are invalid, which no
further attempt would change. Imports no torch, so that it answers at once.
"""

import argparse
import sys
from pathlib import Path

from commandline.arguments import ArgumentParser, positive_integer
from commandline.command import run_command
from commandline.exit_codes import DONE, FAILED, PREEMPTED, USAGE
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.runs.directory import run_path
from regnet.runs.job_identity import job_of
from regnet.runs.status import RunFormatError, RunState, Status, read_state

RETRY = 3


def decide(state: RunState | None, directory: Path, limit: int) -> tuple[int, str]:
    """The exit code, and a line for people.

    Args:
        state: state of the run after the attempt; None if the attempt ended before it had opened the run directory.
        limit: consecutive attempts without progress after which the run is not started again.
    """
    if state is None:
        return USAGE, "the run did not start: see the error above"
    if state.state is Status.finished:
        return DONE, f"{state.reason}. Results: {directory}"
    ending = f"{state.state}: {state.reason}" if state.reason else "failed: killed without an error message"
    line = f"{ending}; completed {state.epoch} epochs, {state.step} steps (attempt {state.attempt})"
    if state.diverged:
        return FAILED, f"{line}; not started again: a resumed run repeats the same steps"
    if state.attempts_without_progress >= limit:
        return FAILED, f"{line}; not started again after {state.attempts_without_progress} attempts without progress"
    if state.state is Status.preempted:
        return PREEMPTED, line
    return RETRY, f"{line}; starting it again"


def options_to_resume(config: Config, state: RunState | None, launch: str) -> str:
    """What must be added to the trainer's options, as another job, to resume the run and not to start it over.

    Nothing if the job has not opened the run yet: then --overwrite is still to be done.
    """
    started = state is not None and launch != "" and job_of(state.launch) == job_of(launch)
    return "--overwrite false" if started and config.overwrite else ""


def run(argv: list[str]) -> int:
    parser = ArgumentParser(
        prog="python -m regnet.relaunch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="only check the options of the trainer")
    what.add_argument("--launch", help="REGNET_LAUNCH of the attempt that has ended")
    parser.add_argument(
        "--limit", type=positive_integer, default=3, help="consecutive attempts without progress (%(default)s)"
    )
    parser.add_argument("arguments", nargs="*", help="options of the trainer, after --")
    args = parser.parse_args(argv)
    try:
        config = parse_config(args.arguments)
    except UsageError as error:
        print(f"error: {error}", flush=True)
        return USAGE
    if args.check:
        return DONE
    directory = run_path(config)
    try:
        state = read_state(directory)
    except RunFormatError:  # the trainer has reported it
        state = None
    opened = state is not None and state.launch == args.launch
    status, line = decide(state if opened else None, directory, args.limit)
    print(*filter(None, (line, options_to_resume(config, state, args.launch))), sep="\n", flush=True)
    return status


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
