"""What is decided is decided once, and obeyed by all ranks at the same step, also when one sees other numbers."""

from collections import Counter

import pytest
from programs import faulty_trainer, kill_group, rows, run, start, state, trainer, wait_until

from regnet.checkpoint.manager import CheckpointManager

# Nothing is learnt, so the first epoch is never beaten: stop after three.
STILL = ("--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0", "--optim.name", "sgd")
PATIENT = ("--early_stopping.monitor", "val_top1", "--early_stopping.patience", "2", "--train.epochs", "9")


def test_early_stopping_follows_rank_zero_whatever_another_rank_counts(shards, tmp_path):
    flags = (*STILL, "--optim.momentum", "0", *PATIENT, "--train.max_steps_per_epoch", "2")
    done = run(faulty_trainer(tmp_path / "skewed", shards, "inflated_metrics:1", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    alike = run(trainer(tmp_path / "alike", shards, *flags, processes=2))
    assert alike.returncode == 0, alike.stderr
    epochs = rows(tmp_path / "alike" / "tiny", "epoch")
    assert len(epochs) < 9
    assert rows(tmp_path / "skewed" / "tiny", "epoch") == epochs


def test_patience_is_not_renewed_by_a_resume(shards, tmp_path):
    """The first epoch is the best for ever; the run is killed in the second, and has two more to wait."""
    flags = (*STILL, "--early_stopping.monitor", "val_top1", "--early_stopping.patience", "3")
    flags += ("--optim.momentum", "0", "--train.epochs", "9")
    process = start(faulty_trainer(tmp_path, shards, "declining_metrics", *flags))
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) > 15)
    kill_group(process)
    done = run(faulty_trainer(tmp_path, shards, "declining_metrics", *flags))
    assert "1 epochs and" in done.stdout, done.stderr
    assert "stopped early: 3 epochs without a better val_top1" in done.stdout
    assert len(rows(tmp_path / "tiny", "epoch")) == 4


def test_rank_zero_alone_is_believed_about_accuracy(shards, tmp_path):
    flags = (*STILL, "--optim.momentum", "0", *PATIENT, "--train.max_steps_per_epoch", "2")
    done = run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "tiny", "epoch")) == 9, "better each time, says rank zero"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_time_limit_of_one_rank_whose_clock_is_ahead_is_that_of_all(shards, tmp_path, rank):
    flags = ("--train.max_minutes", "600", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, f"fast_clock:{rank}", *flags, processes=3))
    assert done.returncode == 75, done.stderr
    told = state(tmp_path / "tiny")
    assert told["state"] == "preempted"
    assert told["step"] == len(rows(tmp_path / "tiny", "step")) < 22
    done = run(trainer(tmp_path, shards, *flags, processes=3))
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))


def test_a_loss_that_is_no_number_on_one_rank_stops_all_and_names_step_rate_and_checkpoint(shards, tmp_path):
    flags = ("--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, "nan_loss:1:5", *flags, processes=3))
    assert done.returncode != 0
    saved = tmp_path / "tiny" / "checkpoints" / "step-000000003.pt"
    words = f"the loss is nan at step 5 (learning rate 0.00141); the last good checkpoint is {saved}"
    for rank in range(3):
        assert f"failed (rank {rank}): {words}" in done.stderr
    assert state(tmp_path / "tiny")["state"] == "failed"
    assert state(tmp_path / "tiny")["reason"] == words
    assert rows(tmp_path / "tiny", "step")[-1]["loss"] is None
    done = run(trainer(tmp_path, shards, *flags, processes=3))
    assert f"continuing from {saved}" in done.stdout
    assert done.returncode == 0, done.stderr


def test_weights_that_are_no_numbers_are_not_saved(shards, tmp_path):
    """On one rank of two, after a step whose loss was still one. The rate that is told is the head's."""
    flags = ("--checkpoint.every_steps", "1", "--tracking.log_every", "9", "--optim.layer_decay", "0.5")
    done = run(faulty_trainer(tmp_path, shards, "inf_weight:1:3", *flags, processes=2))
    assert done.returncode == 1
    checkpoints = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)
    words = "stem.conv_3x3.weight is not finite at step 3 (learning rate 0.000955)"
    for rank in (0, 1):
        assert f"failed (rank {rank}): {words}; the last good checkpoint is {checkpoints.path(2)}" in done.stderr
    assert checkpoints.paths() == [checkpoints.path(1), checkpoints.path(2)]


def test_under_fp16_an_overflow_on_one_rank_costs_one_step(shards, tmp_path):
    flags = ("--train.precision", "fp16", "--tracking.log_every", "1")
    done = run(faulty_trainer(tmp_path, shards, "inf_gradient:1:3", *flags, processes=2))
    assert done.returncode == 0, done.stderr
    lost = [row["step"] for row in rows(tmp_path / "tiny", "step") if row["loss"] is None]
    assert lost == [3]
    assert None not in [row["train_loss"] for row in rows(tmp_path / "tiny", "epoch")], "nor does it spoil the mean"
    assert state(tmp_path / "tiny")["state"] == "finished"


def test_under_fp16_an_overflow_in_every_step_ends_the_run(shards, tmp_path):
    flags = ("--train.precision", "fp16", "--train.epochs", "9")
    done = run(faulty_trainer(tmp_path, shards, "inf_gradient:0:0", *flags, processes=2))
    assert done.returncode != 0
    for rank in (0, 1):
        assert f"failed (rank {rank}): gradients overflow at every loss scale at step" in done.stderr
    assert "the last good checkpoint is" in done.stderr


def test_statistics_are_equal_on_all_ranks_whenever_they_are_evaluated_or_saved(shards, tmp_path):
    flags = ("--checkpoint.every_steps", "4", "--optim.ema_decay", "0.9")
    notes = tmp_path / "notes"
    notes.mkdir()
    done = run(faulty_trainer(tmp_path, shards, "record_buffers", *flags, processes=3), BUFFER_LOG=str(notes))
    assert done.returncode == 0, done.stderr
    seen = [[line.split() for line in (notes / f"rank-{rank}").read_text().splitlines()] for rank in range(3)]
    kinds = Counter(kind for kind, _ in seen[0])
    assert kinds["saved"] >= 8
    assert kinds["evaluated"] >= 2
    assert len({len(lines) for lines in seen}) == 1 or kinds["evaluated"] > 2, "rank zero looks once more, at the end"
    for lines in zip(*seen, strict=False):
        (kind,) = {kind for kind, _ in lines}
        if kind != "own":
            assert len({digest for _, digest in lines}) == 1, kind
    own = [lines for lines in zip(*seen, strict=False) if lines[0][0] == "own"]
    assert any(len({digest for _, digest in lines}) == 3 for lines in own), "each rank has seen other images"
