"""Runs that are not resumed: in use, on other images, or in a directory that cannot be written."""

import pytest
from images import convert_synthetic
from limits import LIMIT
from processes import kill_group, run, start, trainer, wait_until
from run_directory import rows, state

MANY_EPOCHS = ("--train.epochs", "400")


def test_a_second_run_in_the_same_directory_is_rejected(shards, tmp_path):
    first = start(trainer(tmp_path, shards, *MANY_EPOCHS))
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "step"))
        second = run(trainer(tmp_path, shards, *MANY_EPOCHS, "--distributed.heartbeat_timeout", "1"))
        assert second.returncode == 2
        assert "another process is training this run" in second.stderr
    finally:
        kill_group(first)


@pytest.mark.thorough
def test_only_the_next_attempt_of_the_same_job_takes_over_a_run(shards, tmp_path):
    """The earlier attempt may be alive on a node that lost its network, and hold the lock there."""
    flags = (*MANY_EPOCHS, "--distributed.heartbeat_timeout", "1")
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


def test_an_error_of_the_disk_on_rank_zero_ends_all_ranks_with_one_line(shards, tmp_path):
    """There is a file in place of the directory of checkpoints."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "checkpoints").write_text("in the way")
    done = run(trainer(tmp_path, shards, processes=2))
    assert done.returncode == 1
    assert "failed (rank 0)" in done.stderr
    assert "Traceback" not in done.stderr
