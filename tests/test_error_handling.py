"""How a command's errors become messages and exit codes."""

import pytest

from regnet.distributed.preemption import Preempted
from regnet.error_handling import exit_code_of
from regnet.errors import Diverged, UsageError


class WrongInput(Exception):
    pass


class Broken(Exception):
    pass


def outcome(monkeypatch, capsys, error, **env):
    """The exit code, standard output and standard error of a command that raises `error`."""
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def command():
        raise error

    code = exit_code_of(command, usage_errors=WrongInput, failures=Broken)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("env", [{}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_single_process_does_not_print_its_rank(monkeypatch, capsys, env):
    assert outcome(monkeypatch, capsys, UsageError("no"), **env) == (2, "", "error: no\n")
    assert outcome(monkeypatch, capsys, Broken("disk"), **env) == (1, "", "failed: disk\n")
    assert outcome(monkeypatch, capsys, Preempted("signal"), **env) == (75, "signal\n", "")


def test_one_of_several_processes_prints_its_rank(monkeypatch, capsys):
    env = {"RANK": "3", "WORLD_SIZE": "4"}
    assert outcome(monkeypatch, capsys, WrongInput("no"), **env) == (2, "", "error (rank 3): no\n")
    assert outcome(monkeypatch, capsys, Diverged("nan"), **env) == (1, "", "failed (rank 3): nan\n")
    assert outcome(monkeypatch, capsys, Preempted("signal"), **env) == (75, "signal (rank 3)\n", "")
