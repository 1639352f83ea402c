"""Decisions are made once and take effect on all ranks at the same step, even if one rank sees other numbers."""

from collections import Counter

import pytest
from processes import faulty_trainer, kill_group, run, start, trainer, wait_until
from run_directory import rows, state

from regnet.checkpoint.manager import CheckpointManager

# Nothing is learned, so no epoch improves on the first: early stopping after three.
NO_LEARNING = ("--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0", "--optim.name", "sgd")
EARLY_STOPPING = ("--early_stopping.monitor", "val_top1", "--early_stopping.patience", "2", "--train.epochs", "9")


def test_early_stopping_follows_the_metrics_of_rank_zero(shards, tmp_path):
    flags = (*NO_LEARNING, "--optim.momentum", "0", *EARLY_STOPPING, "--train.max_steps_per_epoch", "2")
    done = run(faulty_trainer(tmp_path / "faulty", shards, "inflated_metrics:1", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    normal = run(trainer(tmp_path / "normal", shards, *flags, processes=2))
    assert normal.returncode == 0, normal.stderr
    epochs = rows(tmp_path / "normal" / "tiny", "epoch")
    assert len(epochs) < 9
    assert rows(tmp_path / "faulty" / "tiny", "epoch") == epochs


@pytest.mark.thorough
def test_resuming_does_not_reset_the_patience(shards, tmp_path):
    """The first epoch stays the best; the run is killed in the second, which is slow, and stops after two more."""
    flags = (*NO_LEARNING, "--early_stopping.monitor", "val_top1", "--early_stopping.patience", "3")
    flags += ("--optim.momentum", "0", "--train.epochs", "9")
    process = start(faulty_trainer(tmp_path, shards, "declining_metrics,slow_step::17", *flags))
    wait_until(lambda: (tmp_path / "tiny" / "state.json").exists() and state(tmp_path / "tiny")["epoch"] == 1)
    kill_group(process)
    done = run(faulty_trainer(tmp_path, shards, "declining_metrics", *flags))
    assert "(epoch 1, step" in done.stdout, done.stderr
    assert "Stopped early after 4 epochs: val_top1 has not improved for 3 epochs" in done.stdout
    assert len(rows(tmp_path / "tiny", "epoch")) == 4


def test_the_accuracy_of_rank_zero_decides(shards, tmp_path):
    flags = (*NO_LEARNING, "--optim.momentum", "0", *EARLY_STOPPING, "--train.max_steps_per_epoch", "2")
    done = run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "tiny", "epoch")) == 9, "rank zero sees an improvement in every epoch"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_time_limit_reached_on_one_rank_preempts_all(shards, tmp_path, rank):
    flags = ("--train.max_minutes", "600", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, f"fast_clock:{rank}", *flags, processes=3))
    assert done.returncode == 75, done.stderr
    run_state = state(tmp_path / "tiny")
    assert run_state["state"] == "preempted"
    assert run_state["step"] == len(rows(tmp_path / "tiny", "step")) < 22
    done = run(trainer(tmp_path, shards, *flags, processes=3))
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))


def test_a_nan_loss_on_one_rank_ends_all_and_names_step_learning_rate_and_checkpoint(shards, tmp_path):
    flags = ("--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, "nan_loss:1:5", *flags, processes=3))
    assert done.returncode != 0
    saved = tmp_path / "tiny" / "checkpoints" / "step-000000003.pt"
    reason = f"the loss is nan at step 5 (learning rate 0.00141); the last good checkpoint is {saved}"
    for rank in range(3):
        assert f"failed (rank {rank}): {reason}" in done.stderr
    assert state(tmp_path / "tiny")["state"] == "failed"
    assert state(tmp_path / "tiny")["reason"] == reason
    assert rows(tmp_path / "tiny", "step")[-1]["loss"] is None
    done = run(trainer(tmp_path, shards, *flags, processes=3))
    assert f"Resuming from {saved}" in done.stdout
    assert done.returncode == 0, done.stderr


def test_weights_that_are_not_finite_are_not_saved(shards, tmp_path):
    """On one of two ranks, after a step with a finite loss. The reported learning rate is that of the head."""
    flags = ("--checkpoint.every_steps", "1", "--tracking.log_every", "9", "--optim.layer_decay", "0.5")
    done = run(faulty_trainer(tmp_path, shards, "inf_weight:1:3", *flags, processes=2))
    assert done.returncode == 1
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    reason = "stem.conv_3x3.weight is not finite at step 3 (learning rate 0.000955)"
    for rank in (0, 1):
        assert f"failed (rank {rank}): {reason}; the last good checkpoint is {checkpoints.path(2)}" in done.stderr
    assert checkpoints.paths() == [checkpoints.path(1), checkpoints.path(2)]


@pytest.mark.thorough
def test_under_fp16_an_overflow_on_one_rank_skips_one_step(shards, tmp_path):
    flags = ("--train.precision", "fp16", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, "inf_gradient:1:3", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    skipped = [row["step"] for row in rows(tmp_path / "tiny", "step") if row["loss"] is None]
    assert skipped == [3]
    assert None not in [row["train_loss"] for row in rows(tmp_path / "tiny", "epoch")], "the mean ignores it"
    assert state(tmp_path / "tiny")["state"] == "finished"


@pytest.mark.thorough
def test_under_fp16_an_overflow_in_every_step_ends_the_run(shards, tmp_path):
    flags = ("--train.precision", "fp16", "--train.epochs", "9")
    done = run(faulty_trainer(tmp_path, shards, "inf_gradient:0:0", *flags, processes=2))
    assert done.returncode != 0
    for rank in (0, 1):
        assert f"failed (rank {rank}): gradients overflow at every loss scale at step" in done.stderr
    assert "the last good checkpoint is" in done.stderr


def test_batchnorm_statistics_are_equal_on_all_ranks_when_evaluated_or_saved(shards, tmp_path):
    flags = ("--checkpoint.every_steps", "4", "--optim.ema_decay", "0.9")
    log = tmp_path / "log"
    log.mkdir()
    done = run(faulty_trainer(tmp_path, shards, "record_buffers", *flags, processes=3), BUFFER_LOG=str(log))
    assert done.returncode == 0, done.stderr
    records = [[line.split() for line in (log / f"rank-{rank}").read_text().splitlines()] for rank in range(3)]
    kinds = Counter(kind for kind, _ in records[0])
    assert kinds["saved"] >= 8
    assert kinds["evaluated"] >= 2
    assert len({len(lines) for lines in records}) == 1 or kinds["evaluated"] > 2, "rank zero logs one more evaluation"
    for lines in zip(*records, strict=False):
        (kind,) = {kind for kind, _ in lines}
        if kind != "own":
            assert len({digest for _, digest in lines}) == 1, kind
    own = [lines for lines in zip(*records, strict=False) if lines[0][0] == "own"]
    assert any(len({digest for _, digest in lines}) == 3 for lines in own), "each rank has its own statistics before"
