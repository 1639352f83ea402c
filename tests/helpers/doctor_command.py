"""Runs python -m regnet.doctor, and reads the findings that it prints."""

import json
import shutil

from fork_server import ForkedCommand
from processes import TINY


def doctor_command(runs_dir, shards, *flags, start=()):
    options = ["--config", TINY, "--runs_dir", runs_dir, "--data.shards", shards, *flags]
    command = [str(word) for word in (*start, "-m", "regnet.doctor", *options)]
    return command if start else ForkedCommand(command)


def printed_findings(done):
    """The findings that --json printed, by check."""
    printed = json.loads(done.stdout)
    assert printed["failed"] is (done.returncode == 1), done.stderr
    assert done.returncode in (0, 1), done.stderr
    return {finding["check"]: finding for finding in printed["findings"]}


def failed_checks(found):
    return {check for check, finding in found.items() if finding["severity"] == "FAIL"}


def copy_with_damage(shards, copy):
    """Copies the shards and changes one byte; returns the damaged file."""
    shutil.copytree(shards, copy)
    path = next(copy.glob("val-*.beton"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
