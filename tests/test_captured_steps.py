"""Captured steps train as uncaptured ones do, in any number of processes.

On a CPU a graph is replayed by running its function again on the same tensors: everything but CUDA's own capture is
tested. tests/test_cuda_graphs.py compares real graphs on a GPU.
"""

import pytest
from processes import faulty_trainer, kill_group, run, start, trainer, wait_until
from run_directory import outcome, rows
from thoroughness import parametrize_some

PASSES = "captured the forward and backward passes"
MUON = ("--optim.name", "muon", "--optim.lr", "0.05", "--optim.ema_decay", "0.9")
MIXED = ("--augment.cutmix_prob", "0.5", "--augment.crop_padding", "2", "--data.cache", "device")


def train(folder, shards, *flags, fault=None, processes=0):
    command = faulty_trainer(folder, shards, fault, *flags, processes=processes) if fault else None
    done = run(command or trainer(folder, shards, *flags, processes=processes))
    assert done.returncode == 0, done.stderr
    return done.stdout, outcome(folder / "tiny")


@parametrize_some(
    ("processes", "flags", "captures"),
    [
        (1, MUON, 2),
        (2, ("--train.precision", "fp16", *MUON), 2),
        (3, ("--train.precision", "bf16", "--train.drop_path", "0.2", *MIXED), 2),
        (1, ("--train.grad_accum_steps", "3"), 4),  # the first part of a step overwrites the gradients
        (3, ("--train.grad_accum_steps", "3"), 6),  # of 32 images: 11, 11 and 10
        (2, ("--data.progressive_resizing_epochs", "1", "--data.initial_resolution", "24"), 4),
        (2, ("--train.freeze_backbone", "true"), 2),
        (1, ("--train.sync_batchnorm", "true"), 2),
        (2, ("--train.sync_batchnorm", "true"), 0),
        (2, ("--train.detect_anomaly", "true"), 0),
    ],
    quick=3,
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_captured_run_is_bit_identical_to_an_uncaptured_one(processes, flags, captures, shards, tmp_path):
    """The last batch of an epoch is smaller (40 of 96) and not captured."""
    _, uncaptured = train(tmp_path / "uncaptured", shards, *flags, processes=processes)
    printed, captured = train(tmp_path / "captured", shards, *flags, fault="rerun_graphs", processes=processes)
    assert captured == uncaptured
    assert printed.count(PASSES) == captures * processes
    assert printed.count("captured the evaluation's passes") >= processes


@parametrize_some(
    "flags",
    [(), ("--train.precision", "bf16", "--train.grad_accum_steps", "2"), MUON],
    ids=" ".join,
)
def test_one_bucket_is_bit_identical_to_several(flags, shards, tmp_path):
    """Between two ranks, a sum does not depend on its order."""
    _, several = train(tmp_path / "several", shards, *flags, fault="several_buckets", processes=2)
    _, one = train(tmp_path / "one", shards, *flags, processes=2)
    assert one == several


def test_one_bucket_and_several_agree_between_three_ranks(shards, tmp_path):
    few = ("--optim.name", "sgd", "--train.epochs", "1", "--train.max_steps_per_epoch", "6")  # rounding errors grow
    _, (several, *_) = train(tmp_path / "several", shards, *few, fault="several_buckets", processes=3)
    _, (one, *_) = train(tmp_path / "one", shards, *few, processes=3)
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in several], rel=1e-4)


def test_a_captured_run_that_was_killed_resumes_bit_exactly(shards, tmp_path):
    flags = (*MUON, "--checkpoint.every_steps", "3", "--tracking.log_every", "1")
    _, uninterrupted = train(tmp_path / "uninterrupted", shards, *flags, processes=2)
    killed = start(faulty_trainer(tmp_path / "killed", shards, "rerun_graphs,never_finishes", *flags, processes=2))
    wait_until(lambda: len(rows(tmp_path / "killed" / "tiny", "step")) > 7)
    kill_group(killed)
    printed, resumed = train(tmp_path / "killed", shards, *flags, fault="rerun_graphs", processes=2)
    assert "Resuming from" in printed
    assert resumed == uninterrupted


@pytest.mark.thorough
def test_a_capture_that_fails_is_reported_once_and_the_run_continues_uncaptured(shards, tmp_path):
    _, expected = train(tmp_path / "expected", shards, processes=2)
    printed, actual = train(tmp_path / "failing", shards, fault="failing_capture", processes=2)
    assert actual == expected
    for rank in (0, 1):
        line = f"rank {rank}: CUDA graphs: the forward and backward passes cannot be captured, so they run slower"
        assert printed.count(line) == 1


def test_a_capture_that_is_required_and_fails_ends_the_run(shards, tmp_path):
    done = run(faulty_trainer(tmp_path, shards, "failing_capture", "--train.cuda_graphs", "true"))
    assert done.returncode == 2
    assert "train.cuda_graphs is true, but the augmentations cannot be captured (CUDA error" in done.stderr


def test_graphs_that_are_required_but_impossible_are_refused(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--train.cuda_graphs", "true"))
    assert done.returncode == 2
    assert "train.cuda_graphs is true, but the run uses no GPU: use auto or false" in done.stderr
