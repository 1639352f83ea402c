"""Every command survives standard streams that are closed, broken, full or limited to ASCII."""

import contextlib
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from fork_server import ForkedCommand
from images import class_folders
from limits import LIMIT
from processes import PYTHON, ROOT, TINY, environment, kill_group, run, start, trainer, wait_until
from run_directory import outcome, rows, state

CLASSES = ("bee", "cat", "émile")
LISTING = {"predict", "runs", "summary", "sweep"}  # they print their result; the others write it or check something


def convert_arguments(source, out):
    return ["-m", "data.convert", "--source", "folder", "--root", str(source), "--out", str(out), "--shards", "1"]


def train_arguments(folder, shards, *flags):
    return trainer(folder, shards, "--train.epochs", "1", "--tracking.console_classes", *flags).arguments


def run_with(mode, program):
    return run(ForkedCommand(["tests/helpers/closed_streams.py", mode, *map(str, program)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, shards and a run of classes that ASCII cannot print."""
    folder = tmp_path_factory.mktemp("streams")
    class_folders(folder / "images", classes=CLASSES)
    for program in (
        convert_arguments(folder / "images", folder / "shards"),
        train_arguments(folder / "runs", folder / "shards"),
    ):
        done = run(ForkedCommand(program))
        assert done.returncode == 0, done.stderr
    (folder / "sweep.yaml").write_text("[1, 2]")
    return folder


def program_of_each_command(folder, out):
    """A program for each command, writing to `out`."""
    finished = folder / "runs" / "tiny"
    checkpoint = ("--checkpoint", finished / "checkpoints" / "best.pt")
    configuration = ("--config", TINY, "--runs_dir", folder / "runs", "--data.shards", folder / "shards")
    return {
        "convert": convert_arguments(folder / "images", out / "shards"),
        "train": train_arguments(out, folder / "shards"),
        "doctor": ["-m", "regnet.doctor", *configuration, "--train.epochs", "1"],
        "evaluate": ["-m", "regnet.evaluate", *checkpoint, "--json", out / "evaluation.json", "--device", "cpu"],
        "export": ["-m", "regnet.export", *checkpoint, "--weights", out / "weights.pt"],
        "predict": ["-m", "regnet.predict", *checkpoint, folder / "images" / "test" / "émile" / "0.png"],
        "relaunch": ["-m", "regnet.relaunch", "--launch", "", "--", *configuration],
        "report": ["-m", "regnet.report", finished, "--out", out / "report"],
        "runs": ["-m", "regnet.runs", folder / "runs"],
        "summary": ["-m", "regnet.summary", *configuration],
        "sweep": ["-m", "regnet.sweep", "table", folder / "sweep.yaml", *configuration],
    }


WRITTEN = {
    "convert": "shards/manifest.json",
    "train": "tiny/result.json",
    "evaluate": "evaluation.json",
    "export": "weights.pt",
    "report": "report/index.html",
}
COMMANDS = list(program_of_each_command(Path(), Path()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_reader_has_exited_writes_its_files_or_ends_quietly(folder, tmp_path, command):
    done = run_with("broken", program_of_each_command(folder, tmp_path)[command])
    assert (done.returncode, done.stdout, done.stderr) == (141 if command in LISTING else 0, "", "")
    if command in WRITTEN:
        assert (tmp_path / WRITTEN[command]).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_standard_streams_finishes(folder, tmp_path, command):
    assert run_with("closed", program_of_each_command(folder, tmp_path)[command]).returncode == 0
    if command in WRITTEN:
        assert (tmp_path / WRITTEN[command]).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_escapes_what_the_console_cannot_print(folder, tmp_path, command):
    done = run_with("ascii", program_of_each_command(folder, tmp_path)[command])
    assert (done.returncode, done.stderr) == (0, "")
    if command in ("train", "evaluate", "predict"):
        assert r"\xe9mile" in done.stdout


def test_a_full_disk_under_standard_output_fails_a_listing_and_nothing_else(folder, tmp_path):
    listing = run_with("full", program_of_each_command(folder, tmp_path)["runs"])
    assert (listing.returncode, listing.stderr) == (1, "failed: standard output: No space left on device\n")
    training = run_with("full", program_of_each_command(folder, tmp_path)["train"])
    assert (training.returncode, training.stderr) == (0, "")
    assert rows(tmp_path / "tiny", "epoch")


def test_a_run_without_a_console_is_the_same_run(folder, tmp_path):
    assert run_with("broken", program_of_each_command(folder, tmp_path)["train"]).returncode == 0
    assert outcome(tmp_path / "tiny") == outcome(folder / "runs" / "tiny")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("{} >&- 2>&-", 0),
        ("exec 3> >(true); wait $!; {} >&3", 141),  # in `{} | true` the command may print before its reader has exited
    ],
)
def test_a_shell_closes_the_streams_of_a_fresh_process(folder, script, status):
    command = f"'{PYTHON[0]}' -m regnet.runs '{folder / 'runs'}'"
    done = subprocess.run(
        ["bash", "-c", script.format(command)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.thorough
def test_a_closed_terminal_preempts_a_run(shards, tmp_path):
    """The terminal sends SIGHUP, and writing to it fails from then on."""
    master, slave = pty.openpty()
    program = trainer(tmp_path, shards, "--train.epochs", "400", launcher=PYTHON)
    attach = ["setsid", "--ctty", "--wait", *program]
    process = subprocess.Popen(
        attach, cwd=ROOT, env=environment(), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "step"))
        os.close(master)
        process.wait(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 75
    assert state(tmp_path / "tiny")["state"] == "preempted"
    assert "SIGHUP" in state(tmp_path / "tiny")["reason"]


def test_nohup_protects_a_run_from_a_closed_terminal():
    code = (
        "import signal; from regnet.distributed.preemption import PreemptionNotice; PreemptionNotice().install(); "
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    done = run(["nohup", *PYTHON, "-c", code])
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_nohup_protects_a_command_while_it_imports_and_works():
    code = (
        "import os, signal; from commandline import interrupts; interrupts.exit_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "with interrupts.raised_as_exceptions(): os.kill(os.getpid(), signal.SIGHUP); print('ignored')"
    )
    done = run(["nohup", *PYTHON, "-c", code])
    assert (done.returncode, done.stdout) == (0, "ignored\n"), done.stderr


def test_an_interrupted_command_prints_one_line(tmp_path):
    """While it waits for a file that nobody writes."""
    (tmp_path / "run").mkdir()
    pipe = tmp_path / "run" / "state.json"
    os.mkfifo(pipe)
    process = start(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    try:
        with opened_when_read(pipe):
            process.send_signal(signal.SIGINT)
        # Closed, because Python misses a signal that arrives just before it begins to read, until the read ends.
        out, err = process.communicate(timeout=LIMIT)
    finally:
        kill_group(process)
    assert (process.returncode, out, err) == (130, "", "interrupted by SIGINT\n")


@pytest.mark.parametrize(
    "command", ["data.convert", "regnet.evaluate", "regnet.export", "regnet.report", "regnet.summary"]
)
def test_an_interrupt_during_the_imports_prints_one_line(command):
    done = run([*PYTHON, "tests/helpers/signalled_imports.py", "SIGINT", "numpy", command])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted by SIGINT\n")


@contextlib.contextmanager
def opened_when_read(pipe):
    """Opens a pipe for writing once another process reads it."""
    opened = []

    def is_read():
        with contextlib.suppress(OSError):
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return opened

    wait_until(is_read)
    try:
        yield
    finally:
        os.close(opened[0])


def test_colours_are_the_users_wish_and_a_progress_bar_is_not_drawn_into_a_log(folder, tmp_path):
    """FORCE_COLOR asks for colours (https://force-color.org), not for a terminal's moving cursor."""
    training = run(ForkedCommand(train_arguments(tmp_path, folder / "shards")), FORCE_COLOR="1")
    assert "epoch 1/1" in training.stdout
    assert "\x1b" not in training.stdout + training.stderr
    listing = run(ForkedCommand(["-m", "regnet.runs", str(folder / "runs")]), FORCE_COLOR="1")
    assert "\x1b[1m" in listing.stdout
    assert "\x1b" not in run(ForkedCommand(["-m", "regnet.runs", str(folder / "runs")])).stdout
