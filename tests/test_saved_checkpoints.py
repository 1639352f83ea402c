"""Which checkpoints a run saves and keeps."""

import pytest
from processes import run, trainer


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


@pytest.mark.parametrize(("processes", "expected"), [(0, 22), (2, 6)])
def test_checkpoints_are_saved_by_time_within_an_epoch(shards, tmp_path, processes, expected):
    """A single process saves after every step; two exchange the first three steps of an epoch, then every few."""
    flags = ("--checkpoint.every_minutes", "0.000001", "--checkpoint.keep_last", "99", "--train.epochs", "2")
    assert run(trainer(tmp_path, shards, *flags, processes=processes)).returncode == 0
    steps = sorted(int(path.stem[5:]) for path in (tmp_path / "tiny" / "checkpoints").glob("step-*.pt"))
    assert {2, 3, 11, 13, 14, 22} <= set(steps)
    assert len(steps) >= expected
