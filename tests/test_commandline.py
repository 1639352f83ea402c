"""The entry of all commands: errors become a line and an exit code; writing to a standard stream never fails."""

import contextlib
import io
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import LIMIT

from commandline.command import run_command
from commandline.errors import CommandError, InputError, one_line
from commandline.paths import expand_path
from commandline.streams import OutputLost, _Output
from data.errors import DataError, LoaderError, WriterError
from regnet.distributed.heartbeat import PeerLost
from regnet.distributed.preemption import Preempted
from regnet.distributed.world import OtherRankFailed
from regnet.errors import Diverged, UsageError

ERRORS = [
    (UsageError("no"), 2, "", "error{}: no\n"),
    (DataError("no"), 2, "", "error{}: no\n"),
    (LoaderError("stalled"), 1, "", "failed{}: stalled\n"),
    (WriterError("died"), 1, "", "failed{}: died\n"),
    (Diverged("nan"), 1, "", "failed{}: nan\n"),
    (PeerLost("rank 1"), 1, "", "failed{}: rank 1\n"),
    (OSError(28, "No space left", "x\ny"), 1, "", "failed{}: [Errno 28] No space left: 'x\\ny'\n"),
    (OtherRankFailed(1, 2), 2, "", ""),
    (OtherRankFailed(1, 1), 1, "", ""),
    (KeyboardInterrupt(), 130, "", "interrupted by SIGINT{}\n"),
]


def outcome(monkeypatch, capsys, error, **env):
    """The exit code, standard output and standard error of a command that raises `error`."""
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def command(arguments):
        raise error

    return run_command(command, []), *capsys.readouterr()


@pytest.mark.parametrize(("error", "code", "out", "err"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    ("env", "rank"),
    [
        ({}, ""),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ""),
        ({"RANK": "", "WORLD_SIZE": ""}, ""),
        ({"RANK": "3", "WORLD_SIZE": "4"}, " (rank 3)"),
    ],
)
def test_an_error_becomes_a_line_and_an_exit_code(monkeypatch, capsys, error, code, out, err, env, rank):
    assert outcome(monkeypatch, capsys, error, **env) == (code, out.format(rank), err.format(rank))


@pytest.mark.parametrize(("env", "code"), [({}, 75), ({"TORCHELASTIC_RUN_ID": "1"}, 0)])
def test_preemption_is_not_an_error_and_no_failure_to_torchrun(monkeypatch, capsys, env, code):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert outcome(monkeypatch, capsys, Preempted("signal"), **env) == (code, "signal\n", "")


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, capsys):
    with pytest.raises(ZeroDivisionError):
        outcome(monkeypatch, capsys, ZeroDivisionError())


@given(st.text())
def test_a_message_is_one_line_and_keeps_the_spaces_of_its_paths(text):
    line = one_line(f"a  b/{text}")
    assert len(line.splitlines()) == 1
    assert line.startswith("a  b/")
    assert str(InputError("/a  b\n  c  d\n")) == str(CommandError("/a  b c  d")) == "/a  b c  d"


def test_a_lost_stream_discards_what_follows(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.closing(_Output(writer, output_is_result=False)) as output:
        assert output.write(b"lost") == 4
        assert output.write(b"discarded") == 9
    with pytest.raises(OutputLost, match="standard output: No space left on device"):
        _Output(os.open("/dev/full", os.O_WRONLY), output_is_result=True).write(b"x")
    os.close(writer)


def test_a_slow_reader_of_a_non_blocking_stream_loses_nothing():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read = io.BytesIO()

    def copy():
        while data := os.read(reader, 1000):
            read.write(data)

    thread = threading.Thread(target=copy)
    text = bytes(range(256)) * 4000  # more than a pipe holds
    thread.start()
    assert _Output(writer, output_is_result=True).write(text) == len(text)
    os.close(writer)
    thread.join(LIMIT)
    os.close(reader)
    assert read.getvalue() == text


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("~", "/home/me"),
        ("~/x  y", "/home/me/x  y"),
        ("${HOME}/x", "/home/me/x"),
        ("$HOME/x", "/home/me/x"),
        ("a/$NAME.pt", "a/b c.pt"),
        ("./~/x", "./~/x"),
        ("x~", "x~"),
        ("cost$", "cost$"),
        ("5$/x", "5$/x"),
        ("", ""),
    ],
)
def test_a_home_directory_and_environment_variables_are_expanded(monkeypatch, text, expanded):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("NAME.pt", "wrong")
    monkeypatch.setenv("NAME", "b c")
    assert expand_path(text) == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "~nobody-here/x",
            "~nobody-here/x: no home directory of ~nobody-here (a relative path would be ./~nobody-here/x)",
        ),
        ("${NOT_SET}/x", "${NOT_SET}/x: the environment variable NOT_SET is not set"),
        ("$NOT_SET", "$NOT_SET: the environment variable NOT_SET is not set"),
        ("${A:-b}", "${A:-b}: the environment variable A:-b is not set"),
        ("${}", "${}: the environment variable  is not set"),
    ],
)
def test_an_unknown_user_or_variable_is_rejected(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        expand_path(text)
