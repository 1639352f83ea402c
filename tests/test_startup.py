"""How commands start: the arguments that they reject, and the directory that they start in."""

import re
import subprocess

import pytest
from fork_server import ForkedCommand
from limits import LIMIT
from processes import PYTHON, ROOT, environment, run

# Wrong usage of every command that argparse reads.
WRONG_USAGE = {
    "data.convert": ["--quality", "x"],
    "regnet.evaluate": [],
    "regnet.export": ["--checkpoint", ""],
    "regnet.predict": ["--onnx", "x.onnx", ""],
    "regnet.relaunch": ["--limit", "x"],
    "regnet.report": [""],
    "regnet.runs": [""],
    "regnet.summary": ["--classes", "x"],
    "regnet.sweep": ["tabel", "sweep.yaml"],
}


@pytest.mark.parametrize("command", WRONG_USAGE)
def test_wrong_usage_is_one_line(command):
    done = run(ForkedCommand(["-m", command, *WRONG_USAGE[command]]))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: .*; see python -m {command} --help\n", done.stderr)


def test_an_empty_path_does_not_stand_for_the_current_directory():
    """As from a shell variable that is not set."""
    done = run(ForkedCommand(["-m", "data.convert", "--source", "synthetic", "--out", ""]))
    empty = "error: argument --out: the path is empty (the current directory is .); see python -m data.convert --help\n"
    assert (done.returncode, done.stderr) == (2, empty)


@pytest.mark.parametrize("program", ["train_ddp.py", "-m regnet.runs", "-m regnet.summary"])
def test_a_deleted_current_directory_is_reported(program, tmp_path):
    """PyTorch's libraries end a process there that imports them."""
    command = program.replace("train_ddp.py", str(ROOT / "train_ddp.py"))
    (tmp_path / "deleted").mkdir()
    done = subprocess.run(
        ["bash", "-c", f"cd deleted && rmdir ../deleted && exec '{PYTHON[0]}' {command}"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    message = "error: the current directory was deleted: change to another one (cd)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
