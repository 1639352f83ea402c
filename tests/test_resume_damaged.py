"""A run with damaged files resumes from the newest valid checkpoint, and keeps the best one."""

import json
import os
import shutil

from processes import faulty_trainer, run, trainer
from run_directory import comparable, result, rows
from thoroughness import parametrize_some

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.atomic_write import AtomicWriter

BASELINE_EPOCHS = ("--schedule.name", "baseline", "--train.epochs")


def cut_in_half(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_bit(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def replace_content(path):
    path.write_bytes(b"PK not ours" * 50)


@parametrize_some("damage", [flip_bit, cut_in_half, replace_content])
def test_a_corrupt_checkpoint_is_reported_and_skipped(shards, tmp_path, damage):
    assert run(trainer(tmp_path, shards, "--train.epochs", "2", "--schedule.name", "baseline")).returncode == 0
    newest = tmp_path / "tiny" / "checkpoints" / "step-000000022.pt"
    damage(newest)
    done = run(trainer(tmp_path, shards, "--train.epochs", "3", "--schedule.name", "baseline"))
    assert done.returncode == 0, done.stderr
    assert f"skipped a corrupt checkpoint: {newest}" in done.stdout
    assert "Resuming from" in done.stdout
    assert "step-000000011.pt" in done.stdout
    assert [row["epoch"] for row in rows(tmp_path / "tiny", "epoch")] == [1, 2, 3]


def contents_at(step):
    return {"progress": {"global_step": step}}


def test_a_valid_checkpoint_is_not_deleted_because_of_a_newer_corrupt_one(tmp_path):
    checkpoints, writer = CheckpointManager(tmp_path / "checkpoints", keep_last=1), AtomicWriter(tmp_path)
    checkpoints.save(writer, 90, contents_at(90), is_best=False)
    checkpoints.path(100).write_bytes(b"truncated")
    messages = []
    assert checkpoints.newest(messages.append) == (checkpoints.path(90), contents_at(90))
    assert "step-000000100.pt" in messages[0]
    checkpoints.path(99).write_bytes(b"truncated as well")
    checkpoints.save(writer, 95, contents_at(95), is_best=True)
    assert checkpoints.newest(messages.append) == (checkpoints.path(95), contents_at(95))
    assert load(checkpoints.best) == contents_at(95)


def test_a_run_resumes_from_the_best_checkpoint_if_all_newer_ones_are_corrupt(shards, tmp_path):
    """best.pt is then only replaced by a better one."""
    assert run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *BASELINE_EPOCHS, "2")).returncode == 0, (
        "each epoch is the best so far"
    )
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    best = checkpoints.best.read_bytes()
    cut_in_half(checkpoints.path(22))
    done = run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "3"))
    assert f"Resuming from {checkpoints.best} (epoch 2, step 22)" in done.stdout, done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 34))
    assert load(checkpoints.path(33))["progress"]["best_step"] != 11
    assert best == checkpoints.best.read_bytes() or load(checkpoints.best)["progress"]["best_top1"] > 0.002


def test_a_best_checkpoint_whose_writer_was_killed_is_written_again(shards, tmp_path):
    assert run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *BASELINE_EPOCHS, "2")).returncode == 0
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    best = comparable(load(checkpoints.best))
    shutil.copy(checkpoints.path(11), checkpoints.best)
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "3", "--train.max_minutes", "1e-9")).returncode == 75
    assert comparable(load(checkpoints.best)) == best


def test_damaged_lines_of_metrics_jsonl_are_removed(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "1")).returncode == 0
    log = tmp_path / "tiny" / "metrics.jsonl"
    valid = log.read_bytes()
    for damage in (b"\xff\xfe\n", b"null\n", b"{}\n", b'{"kind": "step", "st'):
        log.write_bytes(valid + damage)
        assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "1", "--checkpoint.keep_last", "5")).returncode == 0
    log.write_bytes(b"null\n\xff\n" + valid + b'{"kind": "epoch", "epoch": "x"}\n{"kind": "st')
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "2")).returncode == 0
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))


def test_a_finished_run_without_a_valid_result_is_evaluated_again(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "1")).returncode == 0
    path = tmp_path / "tiny" / "result.json"
    before = json.loads(path.read_text())
    path.write_text("{}")
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "1")).returncode == 0
    assert json.loads(path.read_text()) == before


def test_after_a_restart_a_worse_checkpoint_does_not_replace_the_best(shards, tmp_path):
    """The accuracy of the first epoch is replaced by one that no later epoch reaches."""
    flags = ("--schedule.name", "baseline", "--train.epochs")
    assert run(trainer(tmp_path, shards, *flags, "1")).returncode == 0
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    saved = load(checkpoints.path(11))
    saved["progress"]["best_top1"] = 0.99
    checkpoints.save(AtomicWriter(tmp_path / "tiny"), 11, saved, is_best=True)
    best = (checkpoints.directory / "best.pt").read_bytes()
    assert run(trainer(tmp_path, shards, *flags, "3")).returncode == 0
    assert [row["epoch"] for row in rows(tmp_path / "tiny", "epoch")] == [1, 2, 3]
    assert (checkpoints.directory / "best.pt").read_bytes() == best
    assert result(tmp_path / "tiny")["best_top1"] == 0.99


def test_a_run_without_a_valid_checkpoint_is_not_started_over(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "1")).returncode == 0
    for path in (tmp_path / "tiny" / "checkpoints").iterdir():
        cut_in_half(path)
    before = (tmp_path / "tiny" / "metrics.jsonl").read_bytes()
    for _ in range(2):
        done = run(trainer(tmp_path, shards, *BASELINE_EPOCHS, "2"))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "none of the checkpoints is valid. Use another --name, or --overwrite to start over" in done.stderr
    assert (tmp_path / "tiny" / "metrics.jsonl").read_bytes() == before
