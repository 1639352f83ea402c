"""A killed run resumes bit-exactly; which checkpoint it resumes from; which runs are rejected."""

import json
import os
import random
import shutil

import pytest
from images import convert_synthetic
from limits import LIMIT
from processes import faulty_trainer, kill_group, run, start, trainer, wait_until
from run_directory import comparable, outcome, result, rows, state
from thoroughness import either, parametrize_some

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.atomic_write import AtomicWriter

# What a checkpoint must contain: gradient accumulation, EMA weights, momentum, the state of torch's generators, steps
# within an epoch. Augmentations need no state, since they depend only on sample and epoch.
FLAGS = (
    "--checkpoint.every_steps",
    "3",
    "--optim.ema_decay",
    "0.9",
    "--train.grad_accum_steps",
    "2",
    "--train.epochs",
    "5",
)
FLAGS += ("--train.drop_path", "0.3", "--augment.mixup_prob", "0.3", "--augment.cutmix_prob", "0.3")
CROP = ("--augment.rrc_min_scale", "0.3", "--augment.crop_padding", "0", "--data.shuffle_window", "200")
PRECISIONS = {
    "fp32": (),
    "bf16": ("--train.precision", "bf16", "--optim.name", "muon", "--optim.layer_decay", "0.8", *CROP),
    "fp16": ("--train.precision", "fp16"),
}
SLOW = ("--train.epochs", "400")
LONGER = ("--schedule.name", "baseline", "--train.epochs")


def kill_at(step, folder, command, attempt=1):
    """Kills this attempt of the run once metrics.jsonl has this many steps."""
    process = start(command)
    wait_until(lambda: (folder / "state.json").exists() and state(folder)["attempt"] == attempt)
    wait_until(lambda: len(rows(folder, "step")) >= step)
    assert process.poll() is None, "it ended before it was killed"
    kill_group(process)


@parametrize_some("precision", PRECISIONS)
def test_a_killed_and_resumed_run_is_bit_identical_to_an_uninterrupted_one(shards, uninterrupted, tmp_path, precision):
    flags = FLAGS + PRECISIONS[precision]
    killed = tmp_path / "killed" / "tiny"
    kills = sorted(random.Random(precision).sample(range(4, 38), either(quick=2, thorough=10)))
    for attempt, step in enumerate(kills, start=1):
        kill_at(step, killed, trainer(tmp_path / "killed", shards, *flags, "--tracking.log_every", "1"), attempt)
    resumed = run(trainer(tmp_path / "killed", shards, *flags))
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from" in resumed.stdout
    assert outcome(killed) == uninterrupted(*flags)
    assert state(killed)["attempt"] == 1 + len(kills)


def test_killed_ranks_resume_bit_exactly(shards, uninterrupted, tmp_path):
    flags = (*FLAGS, "--tracking.log_every", "1")
    killed = tmp_path / "killed" / "tiny"
    kill_at(16, killed, trainer(tmp_path / "killed", shards, *flags, processes=2))
    assert run(trainer(tmp_path / "killed", shards, *flags, processes=2)).returncode == 0
    assert outcome(killed) == uninterrupted(*FLAGS, processes=2)


def truncate(path):
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


@parametrize_some("damage", [flip_bit, truncate, replace_content])
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


def test_only_the_last_checkpoints_and_the_best_are_kept(shards, tmp_path):
    flags = ("--checkpoint.every_steps", "2", "--checkpoint.keep_last", "3", "--train.epochs", "1")
    assert run(trainer(tmp_path, shards, *flags, "--schedule.warmup_epochs", "0")).returncode == 0
    names = sorted(path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir())
    assert names == ["best.pt", "step-000000008.pt", "step-000000010.pt", "step-000000011.pt"]


def test_a_checkpoint_is_plain_data_that_torch_reads(shards, tmp_path):
    import torch

    assert run(trainer(tmp_path, shards, "--train.max_steps_per_epoch", "2")).returncode == 0
    saved = torch.load(tmp_path / "tiny" / "checkpoints" / "best.pt", weights_only=True)
    assert {"model", "optimizer", "scaler", "ema", "stopping", "progress", "random"} <= set(saved)


def test_a_second_run_in_the_same_directory_is_rejected(shards, tmp_path):
    first = start(trainer(tmp_path, shards, *SLOW))
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "step"))
        second = run(trainer(tmp_path, shards, *SLOW, "--distributed.heartbeat_timeout", "1"))
        assert second.returncode == 2
        assert "another process is training this run" in second.stderr
    finally:
        kill_group(first)


@pytest.mark.thorough
def test_only_the_next_attempt_of_the_same_job_takes_over_a_run(shards, tmp_path):
    """The earlier attempt may be alive on a node that lost its network, and hold the lock there."""
    flags = (*SLOW, "--distributed.heartbeat_timeout", "1")
    first = start(trainer(tmp_path, shards, *flags), REGNET_LAUNCH="7.0.1")
    wait_until(lambda: rows(tmp_path / "tiny", "step"))
    second = start(trainer(tmp_path, shards, *flags), REGNET_LAUNCH="7.1.1")
    try:
        _, err = first.communicate(timeout=LIMIT)
        assert (first.returncode, "a newer attempt has taken over this run" in err) == (1, True), err
        other = run(trainer(tmp_path, shards, *flags), REGNET_LAUNCH="8.1.1")
        assert (other.returncode, "another process is training this run" in other.stderr) == (2, True), other.stderr
        assert (state(tmp_path / "tiny")["state"], state(tmp_path / "tiny")["launch"]) == ("running", "7.1.1")
        assert second.poll() is None
    finally:
        kill_group(first)
        kill_group(second)


def test_a_run_is_not_resumed_on_different_images_or_with_a_different_schedule(shards, tmp_path):
    other = convert_synthetic(tmp_path / "other", 8, 2)
    assert run(trainer(tmp_path, shards, "--train.max_steps_per_epoch", "2")).returncode == 0
    done = run(trainer(tmp_path, other, "--train.max_steps_per_epoch", "2"))
    assert (done.returncode, "was trained on different images" in done.stderr) == (2, True), done.stderr
    (tmp_path / "tiny" / "config.yaml").unlink()
    done = run(trainer(tmp_path, shards, "--train.max_steps_per_epoch", "2", "--resume", "never"))
    assert (done.returncode, "already contains a run" in done.stderr) == (2, True), done.stderr
    done = run(trainer(tmp_path, shards, "--train.max_steps_per_epoch", "2", "--train.epochs", "3"))
    assert (done.returncode, "train.epochs" in done.stderr) == (2, True), done.stderr


def test_a_run_resumes_on_the_same_images_in_different_shards(shards, tmp_path):
    other = convert_synthetic(tmp_path / "other", 10, 1)
    flags = ("--schedule.name", "baseline", "--train.epochs")
    assert run(trainer(tmp_path, shards, *flags, "1")).returncode == 0
    assert run(trainer(tmp_path, other, *flags, "2")).returncode == 0
    assert run(trainer(tmp_path / "uninterrupted", shards, *flags, "2")).returncode == 0
    assert rows(tmp_path / "tiny", "step") == rows(tmp_path / "uninterrupted" / "tiny", "step")


def at(step):
    return {"progress": {"global_step": step}}


def test_a_valid_checkpoint_is_not_deleted_because_of_a_newer_corrupt_one(tmp_path):
    checkpoints, writer = CheckpointManager(tmp_path / "checkpoints", keep_last=1), AtomicWriter(tmp_path)
    checkpoints.save(writer, 90, at(90), is_best=False)
    checkpoints.path(100).write_bytes(b"truncated")
    messages = []
    assert checkpoints.newest(messages.append) == (checkpoints.path(90), at(90))
    assert "step-000000100.pt" in messages[0]
    checkpoints.path(99).write_bytes(b"truncated as well")
    checkpoints.save(writer, 95, at(95), is_best=True)
    assert checkpoints.newest(messages.append) == (checkpoints.path(95), at(95))
    assert load(checkpoints.best) == at(95)


def test_a_run_resumes_from_the_best_checkpoint_if_all_newer_ones_are_corrupt(shards, tmp_path):
    """best.pt is then only replaced by a better one."""
    assert run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *LONGER, "2")).returncode == 0, (
        "each epoch is the best so far"
    )
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    best = checkpoints.best.read_bytes()
    truncate(checkpoints.path(22))
    done = run(trainer(tmp_path, shards, *LONGER, "3"))
    assert f"Resuming from {checkpoints.best} (epoch 2, step 22)" in done.stdout, done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 34))
    assert load(checkpoints.path(33))["progress"]["best_step"] != 11
    assert best == checkpoints.best.read_bytes() or load(checkpoints.best)["progress"]["best_top1"] > 0.002


def test_a_run_without_a_valid_checkpoint_is_not_started_over(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    for path in (tmp_path / "tiny" / "checkpoints").iterdir():
        truncate(path)
    before = (tmp_path / "tiny" / "metrics.jsonl").read_bytes()
    for _ in range(2):
        done = run(trainer(tmp_path, shards, *LONGER, "2"))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "none of the checkpoints is valid. Use another --name, or --overwrite to start over" in done.stderr
    assert (tmp_path / "tiny" / "metrics.jsonl").read_bytes() == before


def test_a_best_checkpoint_whose_writer_was_killed_is_written_again(shards, tmp_path):
    assert run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *LONGER, "2")).returncode == 0
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    best = comparable(load(checkpoints.best))
    shutil.copy(checkpoints.path(11), checkpoints.best)
    assert run(trainer(tmp_path, shards, *LONGER, "3", "--train.max_minutes", "1e-9")).returncode == 75
    assert comparable(load(checkpoints.best)) == best


def test_damaged_lines_of_metrics_jsonl_are_removed(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    log = tmp_path / "tiny" / "metrics.jsonl"
    valid = log.read_bytes()
    for damage in (b"\xff\xfe\n", b"null\n", b"{}\n", b'{"kind": "step", "st'):
        log.write_bytes(valid + damage)
        assert run(trainer(tmp_path, shards, *LONGER, "1", "--checkpoint.keep_last", "5")).returncode == 0
    log.write_bytes(b"null\n\xff\n" + valid + b'{"kind": "epoch", "epoch": "x"}\n{"kind": "st')
    assert run(trainer(tmp_path, shards, *LONGER, "2")).returncode == 0
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))


def test_a_finished_run_without_a_valid_result_is_evaluated_again(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    path = tmp_path / "tiny" / "result.json"
    before = json.loads(path.read_text())
    path.write_text("{}")
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    assert json.loads(path.read_text()) == before


def test_a_killed_evaluation_does_not_lose_the_epoch(shards, tmp_path):
    """The last step of an epoch is saved before its evaluation, which is slow here."""
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "slow_evaluation"))
    first = folder / "checkpoints" / "step-000000011.pt"
    wait_until(first.exists)
    kill_group(process)
    assert rows(folder, "epoch") == []
    saved = load(first)["progress"]
    assert (saved["global_step"], saved["step"], saved["epoch"]) == (11, 11, 0)


@pytest.mark.thorough
def test_a_run_that_is_killed_between_an_epochs_report_and_its_checkpoint_reports_it_once(
    shards, uninterrupted, tmp_path
):
    """The newest checkpoint is then the one before the evaluation, of the same step."""
    folder = tmp_path / "tiny"
    process = start(faulty_trainer(tmp_path, shards, "slow_disk"))
    wait_until(lambda: rows(folder, "epoch") and (folder / "checkpoints" / "step-000000011.pt").exists())
    kill_group(process)
    assert load(folder / "checkpoints" / "step-000000011.pt")["progress"]["epoch"] == 0
    assert run(trainer(tmp_path, shards)).returncode == 0
    assert outcome(folder) == uninterrupted()


@pytest.mark.parametrize(("processes", "expected"), [(0, 22), (2, 6)])
def test_checkpoints_are_saved_by_time_within_an_epoch(shards, tmp_path, processes, expected):
    """A single process saves after every step; two exchange the first three steps of an epoch, then every few."""
    flags = ("--checkpoint.every_minutes", "0.000001", "--checkpoint.keep_last", "99", "--train.epochs", "2")
    assert run(trainer(tmp_path, shards, *flags, processes=processes)).returncode == 0
    steps = sorted(int(path.stem[5:]) for path in (tmp_path / "tiny" / "checkpoints").glob("step-*.pt"))
    assert {2, 3, 11, 13, 14, 22} <= set(steps)
    assert len(steps) >= expected


def test_an_error_of_the_disk_on_rank_zero_ends_all_ranks_with_one_line(shards, tmp_path):
    """There is a file in place of the directory of checkpoints."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "checkpoints").write_text("in the way")
    done = run(trainer(tmp_path, shards, processes=2))
    assert done.returncode == 1
    assert "failed (rank 0)" in done.stderr
    assert "Traceback" not in done.stderr


PLAIN_SGD = ("--optim.name", "sgd", "--optim.momentum", "0", "--optim.lr", "0.02", "--schedule.start_lr", "0.02")


@pytest.mark.thorough
def test_a_run_of_four_ranks_resumes_on_two_and_on_one_with_the_same_batches(shards, tmp_path):
    """Losses agree to one part in a thousand, since only the order of sums differs.

    Plain SGD, which does not amplify rounding errors as Adam does.
    """
    flags = (*PLAIN_SGD, "--train.sync_batchnorm", "true", "--schedule.warmup_epochs", "0", "--train.epochs", "1")
    expected = run(trainer(tmp_path / "uninterrupted", shards, *flags, processes=4))
    assert expected.returncode == 0, expected.stderr
    for processes in (4, 2):
        done = run(trainer(tmp_path, shards, *flags, "--train.max_minutes", "1e-9", processes=processes))
        assert done.returncode == 75, done.stderr
        assert state(tmp_path / "tiny")["state"] == "preempted"
    assert state(tmp_path / "tiny")["step"] == 4, "two steps on four ranks, two on two"
    metrics = load(CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).path(4))["metrics"]
    assert sum(int(rank["class_samples"].sum()) for rank in metrics) == 4 * 96, "the samples of all four ranks"
    done = run(trainer(tmp_path, shards, *flags))
    assert "(epoch 0, step 4)" in done.stdout, done.stderr
    moved, unmoved = (rows(folder / "tiny", "step") for folder in (tmp_path, tmp_path / "uninterrupted"))
    assert [row["step"] for row in moved] == list(range(1, 12))
    assert [row["loss"] for row in moved] == pytest.approx([row["loss"] for row in unmoved], rel=1e-3)
    (epoch,), (other,) = (rows(folder / "tiny", "epoch") for folder in (tmp_path, tmp_path / "uninterrupted"))
    assert epoch["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3), "the epoch's sums are restored too"


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
