"""Where commands write: paths are checked before the work starts, and JSON on standard output is nothing but JSON."""

import json
import re

import pytest
from fork_server import ForkedCommand
from processes import run


@pytest.mark.parametrize("option", ["evaluate --json", "export --onnx", "export --weights", "export --architecture"])
@pytest.mark.parametrize(
    ("path", "message"),
    [("folder.svg", "is a directory: name a file"), ("missing/file.svg", "missing is not a directory")],
)
def test_a_path_that_cannot_be_written_is_rejected_before_the_checkpoint_is_read(tmp_path, option, path, message):
    (tmp_path / "folder.svg").mkdir()
    command, flag = option.split()
    arguments = ["--checkpoint", str(tmp_path / "absent.pt"), flag, str(tmp_path / path)]
    done = run(ForkedCommand(["-m", f"regnet.{command}", *arguments]))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert f"{flag} {tmp_path / path}" in done.stderr
    assert message in done.stderr


def test_a_damaged_run_is_reported_apart_from_the_json_of_the_others(tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "state.json").write_text('{"format": 2')
    done = run(ForkedCommand(["-m", "regnet.runs", "--json", str(tmp_path)]))
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert re.fullmatch(rf"skipped: {tmp_path}/damaged/state.json is damaged \(.*\)\n", done.stderr)
