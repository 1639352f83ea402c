"""Checkpoint files: atomic writes, failing disks, corruption, and checkpoints that do not fit the run."""

import contextlib
import hashlib
import io
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess

import pytest
import torch
from disks import mounted_tmpfs
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from limits import LIMIT
from processes import faulty_trainer, run, start, trainer, wait_until
from run_directory import outcome, rows, state
from thoroughness import either, examples

from regnet.checkpoint.file import CheckpointError, CorruptCheckpoint, load, pack
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver

LONGER = ("--schedule.name", "baseline", "--train.epochs")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """The parent of the directory of a finished run of one epoch, which tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    assert run(trainer(folder, shards, *LONGER, "1")).returncode == 0
    return folder


def copy_of(trained, tmp_path):
    shutil.copytree(trained / "tiny", tmp_path / "tiny")
    return CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)


def test_a_write_that_is_interrupted_at_any_byte_leaves_the_previous_checkpoint(trained, shards, tmp_path):
    """A limit on the file size makes the kernel kill the writer at 50 offsets, or at 15 in a quick run."""
    checkpoints, run_dir = copy_of(trained, tmp_path), tmp_path / "tiny"
    saved = load(checkpoints.path(11))
    size = len(pack(saved))
    others = random.Random(1).sample(range(size), either(quick=10, thorough=45))
    offsets = [0, 1, size - 1, size - 44, size - 32, *others]
    for offset in offsets:
        pid = os.fork()
        if pid == 0:
            limit_file_size(offset)
            checkpoints.save(AtomicWriter(run_dir), 22, saved, is_best=False)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGXFSZ, offset
        (torn,) = run_dir.glob(".attempt-*/*")
        assert torn.stat().st_size == offset, "the writer was killed at this byte"
        assert checkpoints.paths() == [checkpoints.path(11)]
    done = run(trainer(tmp_path, shards, *LONGER, "2"))
    assert done.returncode == 0, done.stderr
    assert f"Resuming from {checkpoints.path(11)}" in done.stdout
    assert not list(run_dir.glob(".attempt-*"))


def limit_file_size(offset):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (offset, offset))


@pytest.mark.parametrize("fraction", [0.3, 0.99])
def test_a_trainer_that_is_killed_while_it_writes_resumes(trained, shards, tmp_path, fraction):
    checkpoints = copy_of(trained, tmp_path)
    offset = int(fraction * checkpoints.path(11).stat().st_size)
    cut = run(
        faulty_trainer(
            tmp_path, shards, f"killed_while_writing::{offset}", *LONGER, "2", "--checkpoint.every_steps", "4"
        )
    )
    assert cut.returncode == -signal.SIGXFSZ, cut.stderr
    assert checkpoints.paths() == [checkpoints.path(11)]
    assert run(trainer(tmp_path, shards, *LONGER, "2")).returncode == 0
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))


def one_line(done, *words, status=1):
    assert done.returncode == status, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_a_full_disk_ends_the_run_with_one_line_and_it_can_be_resumed(shards, tmp_path):
    flags = (*LONGER, "2", "--checkpoint.every_steps", "2", "--checkpoint.keep_last", "99")
    with mounted_tmpfs(tmp_path / "disk", "size=1200k") as disk:
        full = run(trainer(disk, shards, *flags))
        one_line(full, "failed: ", f"No space left on device: '{disk}/tiny/checkpoints/step-")
        assert state(disk / "tiny")["state"] == "failed"
        checkpoints = CheckpointManager(disk / "tiny" / "checkpoints", 9)
        assert not list((disk / "tiny").glob(".attempt-*"))
        newest = checkpoints.paths()[-1]
        assert load(newest)["progress"]["global_step"] == state(disk / "tiny")["step"]
        for old in checkpoints.paths()[:-1]:
            old.unlink()
        resumed = run(trainer(disk, shards, *flags, "--checkpoint.keep_last", "1"))
        assert resumed.returncode == 0, resumed.stderr
        assert f"Resuming from {newest}" in resumed.stdout
        assert [row["step"] for row in rows(disk / "tiny", "step")] == list(range(1, 23))


def test_a_run_that_fails_while_its_disk_is_full_says_both(shards, tmp_path):
    """The second checkpoint does not fit; a step raises before anything asks for it."""
    flags = (*LONGER, "2", "--checkpoint.every_steps", "2", "--checkpoint.keep_last", "99")
    with mounted_tmpfs(tmp_path / "disk", "size=300k") as disk:
        failed = run(faulty_trainer(disk, shards, "raises::5", *flags))
        assert failed.returncode == 1
        assert "RuntimeError: a defect on this rank alone" in failed.stderr
        reason = f"No space left on device: '{disk}/tiny/checkpoints/step-000000004.pt'"
        recorded = state(disk / "tiny")["reason"]
        assert recorded == f"a defect on this rank alone; the last checkpoint was not saved: [Errno 28] {reason}"


def test_a_disk_that_is_full_during_logging_ends_the_run_and_its_state_is_failed(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=400k") as disk:
        flags = ("--train.epochs", "400", "--tracking.log_every", "1", "--checkpoint.keep_last", "1")
        process = start(trainer(disk, shards, *flags))
        wait_until(lambda: rows(disk / "tiny", "epoch"))
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1, out
        assert f"No space left on device: '{disk}/tiny/" in err
        assert "Traceback" not in err
        assert state(disk / "tiny")["state"] == "failed"


@pytest.mark.parametrize("fsync", [9, 12])
def test_a_write_that_fails_once_is_retried(shards, uninterrupted, tmp_path, fsync):
    flags = ("--checkpoint.every_steps", "2")
    done = run(faulty_trainer(tmp_path, shards, f"failing_disk::{fsync}", *flags))
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "tiny") == uninterrupted()


def test_a_read_only_directory_is_reported_in_one_line(trained, shards, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=10m") as disk:
        shutil.copytree(trained / "tiny", disk / "tiny")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=LIMIT)
        done = run(trainer(disk, shards, *LONGER, "2"))
        one_line(done, str(disk / "tiny"), "Read-only file system", status=2)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True, timeout=LIMIT)
        assert run(trainer(disk, shards, *LONGER, "2")).returncode == 0


def test_an_attempt_that_was_taken_over_can_no_longer_write(trained, tmp_path):
    """It may be alive on a node that lost its network."""
    checkpoints, run_dir = copy_of(trained, tmp_path), tmp_path / "tiny"
    saved = load(checkpoints.path(11))
    old = AtomicWriter(run_dir)
    checkpoints.save(old, 22, saved, is_best=True)
    before = {path: path.read_bytes() for path in checkpoints.directory.iterdir()}
    AtomicWriter(run_dir)
    saved["progress"]["global_step"] = 33
    for step in (22, 33):
        with pytest.raises(DirectoryTakenOver, match="a newer attempt has taken over this run"):
            checkpoints.save(old, step, saved, is_best=True)
    assert {path: path.read_bytes() for path in checkpoints.directory.iterdir()} == before


def test_a_trainer_that_was_taken_over_exits_with_a_message(shards, tmp_path):
    """As on a file system without shared locks."""
    process = start(trainer(tmp_path, shards, "--train.epochs", "400"))
    wait_until(lambda: rows(tmp_path / "tiny", "epoch"))
    AtomicWriter(tmp_path / "tiny")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, out
    assert "a newer attempt has taken over this run" in err
    assert "Traceback" not in err
    assert state(tmp_path / "tiny")["state"] == "running", "the newer attempt writes it"


def set_version(path, version):
    content = path.read_bytes()
    marked = content[:-36] + version.to_bytes(4, "little")
    path.write_bytes(marked + hashlib.sha256(marked).digest())


def newer_version(path):
    set_version(path, 9)


def older_version(path):
    set_version(path, 3)


def other_network(path):
    saved = load(path)
    name = next(name for name in saved["model"] if saved["model"][name].dim() == 4)
    saved["model"][name] = torch.zeros(3, *saved["model"][name].shape[1:])
    path.write_bytes(pack(saved))


def other_images(path):
    path.write_bytes(pack({**load(path), "data": "0123456789abcdef"}))


def other_seed(path):
    saved = load(path)
    saved["config"]["seed"] = 9
    path.write_bytes(pack(saved))


def missing_tensor(path):
    saved = load(path)
    del saved["model"][list(saved["model"])[-2]]
    path.write_bytes(pack(saved))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            newer_version,
            "step-000000011.pt: written by a newer version of this program (checkpoint format 9; this version reads "
            "4). Use another --name, or --overwrite to start over",
        ),
        (older_version, "written by an older version of this program (checkpoint format 3; this version reads 4). Use"),
        (other_network, "the checkpoint holds a different network: "),
        (missing_tensor, " is missing"),
        (other_images, "was trained on different images"),
        (other_seed, "was created with a different configuration: seed was 9, now 3."),
    ],
)
def test_a_valid_checkpoint_that_does_not_fit_the_run_is_rejected(trained, shards, tmp_path, change, words):
    checkpoints = copy_of(trained, tmp_path)
    change(checkpoints.path(11))
    checkpoints.best.unlink()
    for name in ("config.yaml", "state.json"):
        (tmp_path / "tiny" / name).unlink()
    before = checkpoints.path(11).read_bytes()
    one_line(run(trainer(tmp_path, shards, *LONGER, "2")), words, status=2)
    assert checkpoints.path(11).read_bytes() == before


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_loading_executes_no_code_from_the_file(tmp_path):
    """Even if its digest is valid."""
    for name, written in (("torch", torch.save), ("pickle", pickle.dump)):
        buffer = io.BytesIO()
        written({"model": Attack(str(tmp_path / "attacked"))}, buffer)
        marked = buffer.getvalue() + pack({})[-44:-32]
        path = tmp_path / f"{name}.pt"
        path.write_bytes(marked + hashlib.sha256(marked).digest())
        with pytest.raises(CheckpointError, match=name):
            load(path)
    assert not (tmp_path / "attacked").exists()


@given(data=st.data())
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_corruption_is_detected(tmp_path, data):
    valid = pack({"weights": torch.arange(300.0), "step": 7})
    path = tmp_path / "some.pt"
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["truncate", "byte", "insert", "append", "zeros"]))
        position = data.draw(st.integers(0, max(0, len(content) - 1)))
        if kind == "truncate":
            del content[position:]
        elif kind == "byte" and content:
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "append":
            content += data.draw(st.binary(min_size=1, max_size=50))
        else:
            content[position : position + 64] = bytes(len(content[position : position + 64]))
    path.write_bytes(content)
    if bytes(content) == valid:
        assert load(path)["step"] == 7
    else:
        with pytest.raises(CorruptCheckpoint, match=r"some\.pt"):
            load(path)
