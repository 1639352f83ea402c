"""best.pt is written again if it is lost: from another checkpoint, or at the next evaluation."""

import pytest
from processes import faulty_trainer, run, trainer
from run_directory import comparable, result

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager

LONGER = ("--schedule.name", "baseline", "--train.epochs")


def damage(path):
    path.write_bytes(path.read_bytes()[:-100])


LOSSES = {"missing": lambda path: path.unlink(), "corrupt": damage}
every_loss = pytest.mark.parametrize("lost", LOSSES)


@pytest.fixture
def checkpoints(tmp_path):
    return CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)


@every_loss
def test_a_lost_best_checkpoint_is_restored_from_the_numbered_one_of_the_same_step(shards, tmp_path, checkpoints, lost):
    """The best epoch is the first of two; the run resumes from the second."""
    inflated = faulty_trainer(tmp_path, shards, "declining_metrics", *LONGER, "2")
    assert run(inflated).returncode == 0
    best = comparable(load(checkpoints.best))
    assert best["progress"]["best_step"] == 11
    LOSSES[lost](checkpoints.best)
    done = run(trainer(tmp_path, shards, *LONGER, "3"))
    assert done.returncode == 0, done.stderr
    assert f"{checkpoints.best}: restored from step-000000011.pt" in done.stdout
    assert comparable(load(checkpoints.best)) == best


@every_loss
def test_a_lost_best_checkpoint_is_made_again_by_the_next_epoch_if_no_other_holds_it(
    shards, tmp_path, checkpoints, lost
):
    flags = ("--checkpoint.keep_last", "1", *LONGER)
    assert run(faulty_trainer(tmp_path, shards, "declining_metrics", *flags, "2")).returncode == 0
    LOSSES[lost](checkpoints.best)
    done = run(trainer(tmp_path, shards, *flags, "3"))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "the next evaluated epoch becomes best.pt" in line]
    assert line.startswith(f"{checkpoints.best} (step 11, top-1 ")
    assert load(checkpoints.best)["progress"]["best_step"] == 33
    assert load(checkpoints.best)["progress"]["best_top1"] == result(tmp_path / "tiny")["best_top1"]


@every_loss
def test_a_finished_run_restores_a_lost_best_checkpoint(shards, tmp_path, checkpoints, lost):
    assert run(faulty_trainer(tmp_path, shards, "inflated_metrics:0", *LONGER, "2")).returncode == 0
    best = comparable(load(checkpoints.best))
    LOSSES[lost](checkpoints.best)
    done = run(trainer(tmp_path, shards, *LONGER, "2"))
    assert "Already finished" in done.stdout, done.stderr
    assert f"{checkpoints.best}: restored from step-000000022.pt" in done.stdout
    assert comparable(load(checkpoints.best)) == best


@every_loss
def test_a_finished_run_says_that_its_best_checkpoint_is_lost(shards, tmp_path, checkpoints, lost):
    """The best epoch is the first of two; only the checkpoint of the second is kept."""
    flags = ("--checkpoint.keep_last", "1", *LONGER, "2")
    assert run(faulty_trainer(tmp_path, shards, "declining_metrics", *flags)).returncode == 0
    LOSSES[lost](checkpoints.best)
    done = run(trainer(tmp_path, shards, *flags))
    assert (done.returncode, "Already finished" in done.stdout) == (0, True), done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{checkpoints.best} (step 11, top-1 ")]
    assert line.endswith("is lost: no other checkpoint holds that epoch")


def test_a_finished_run_with_damaged_checkpoints_is_still_finished(shards, tmp_path, checkpoints):
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    for path in checkpoints.directory.iterdir():
        damage(path)
    done = run(trainer(tmp_path, shards, *LONGER, "1"))
    assert (done.returncode, "Already finished" in done.stdout) == (0, True), done.stderr
    assert "none of the checkpoints is valid. Use another --name, or --overwrite to start over" in done.stdout


def test_a_finished_run_without_checkpoints_is_still_finished(shards, tmp_path, checkpoints):
    """A user may have deleted them to save space."""
    assert run(trainer(tmp_path, shards, *LONGER, "1")).returncode == 0
    for path in checkpoints.directory.iterdir():
        path.unlink()
    done = run(trainer(tmp_path, shards, *LONGER, "1"))
    assert (done.returncode, "Already finished" in done.stdout) == (0, True), done.stderr
    assert not list(checkpoints.directory.iterdir())
    longer = run(trainer(tmp_path, shards, *LONGER, "2"))
    assert longer.returncode == 2
    assert f"{checkpoints.directory} has no checkpoint, but the run had completed 11 steps. Use another --name" in (
        longer.stderr
    )
