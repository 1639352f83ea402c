"""The command that started an attempt, and the one that resumes its run."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Options of one attempt: a resume must not delete the run, be refused, or end at the same moment again.
_OF_ONE_ATTEMPT = ("--overwrite", "--resume", "--train.max_minutes")
_NAME_SWEEP_RUNS = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")  # see regnet.tracking.wandb_sweep
_PIPE = re.compile(r"^(--config=|)/(?:dev|proc/self)/(?:fd/\d+|stdin)$")  # bash's <(...), or standard input
_INSTALLED = ("torchrun", "regnet-train")


def launch_command() -> tuple[str, ...]:
    """The command line that started this process; empty if the trainer was called from Python.

    That of a run of a W&B sweep includes the variables that give the run its name.
    """
    command = _command_line()
    sweep = [f"{name}={os.environ[name]}" for name in _NAME_SWEEP_RUNS if os.environ.get(name)]
    return ("env", *sweep, *command) if command and len(sweep) == len(_NAME_SWEEP_RUNS) else command


def _command_line() -> tuple[str, ...]:
    """REGNET_LAUNCHER, which the job scripts set, stands for everything before the options of the trainer."""
    program, *arguments = sys.argv
    if Path(program).name != "train_ddp.py":
        return ()
    if "REGNET_LAUNCHER" in os.environ:
        return *shlex.split(os.environ["REGNET_LAUNCHER"]), *arguments
    started = _parent_command() if "TORCHELASTIC_RUN_ID" in os.environ else sys.orig_argv
    if started[len(started) - len(arguments) :] != arguments:
        started = ["python", *sys.argv]
    return tuple(_as_typed(started))


def _parent_command() -> list[str]:
    """The command line of torchrun, which is the parent of its workers."""
    content = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    return [os.fsdecode(argument) for argument in content.removesuffix(b"\0").split(b"\0")]


def _as_typed(command: list[str]) -> list[str]:
    """`/venv/bin/python /venv/bin/torchrun ...` -> `torchrun ...`, if that is the one on the search path."""
    name = Path(command[1]).name if len(command) > 1 else ""
    if name not in _INSTALLED:
        return command
    found = shutil.which(name)
    same = found is not None and os.path.realpath(found) == os.path.realpath(command[1])
    return [name if same else command[1], *command[2:]]


def replace_pipes(command: Sequence[str], configuration: Path) -> list[str]:
    """The command with the configuration of its run in place of one that was read from a pipe, which is gone."""
    return [_PIPE.sub(lambda found: f"{found[1]}{configuration.absolute()}", argument) for argument in command]


def resume_command(command: Sequence[str], directory: str, *further: str) -> str:
    """A shell command that resumes a run.

    Args:
        command: of its latest attempt.
        directory: in which that was started.
        further: options to add.
    """
    there = f"cd {shlex.quote(directory)} && " if directory and directory != os.getcwd() else ""
    return there + shlex.join([*_without(command, _OF_ONE_ATTEMPT), *further])


def _without(command: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """The command without these options and their values."""
    omitting = False
    for argument in command:
        is_option = argument.startswith("--")
        omitting = argument.partition("=")[0] in options if is_option else omitting
        if not omitting:
            yield argument
        omitting = omitting and is_option and "=" not in argument  # its value may follow
