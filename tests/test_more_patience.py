"""An early-stopped run trains on with more patience, and says why it does not without."""

from processes import faulty_trainer, run, trainer
from run_directory import outcome, rows, state

# No epoch improves on the first, so that the run stops after `patience` further epochs.
FLAGS = ("--train.epochs", "4", "--train.max_steps_per_epoch", "2", "--early_stopping.monitor", "val_top1")
PATIENCE = (*FLAGS, "--early_stopping.patience")


def train_with_declining_metrics(tmp_path, shards, *flags):
    return run(faulty_trainer(tmp_path, shards, "declining_metrics", *flags))


def test_a_stopped_run_trains_on_with_more_patience_as_if_it_had_had_it_from_the_start(shards, tmp_path):
    stopped = train_with_declining_metrics(tmp_path, shards, *PATIENCE, "1")
    assert "Stopped early after 2 epochs: val_top1 has not improved for 1 epoch" in stopped.stdout, stopped.stderr
    assert len(rows(tmp_path / "tiny", "epoch")) == 2
    again = train_with_declining_metrics(tmp_path, shards, *PATIENCE, "1")
    (line,) = [line for line in again.stdout.splitlines() if line.startswith("Already finished")]
    assert line == (
        f"Already finished. Stopped early after 2 epochs: val_top1 has not improved for 1 epoch. It trains on with a "
        f"larger early_stopping.patience (0 for no early stopping). Results: {tmp_path}/tiny"
    )
    resumed = train_with_declining_metrics(tmp_path, shards, *PATIENCE, "0")
    assert resumed.returncode == 0, resumed.stderr
    assert "Finished after 4 epochs" in resumed.stdout
    assert train_with_declining_metrics(tmp_path / "uninterrupted", shards, *PATIENCE, "0").returncode == 0
    assert outcome(tmp_path / "tiny") == outcome(tmp_path / "uninterrupted" / "tiny")


def test_more_patience_that_is_used_up_again_stops_again(shards, tmp_path):
    assert train_with_declining_metrics(tmp_path, shards, *PATIENCE, "1").returncode == 0
    done = train_with_declining_metrics(tmp_path, shards, *PATIENCE, "2")
    assert "Stopped early after 3 epochs: val_top1 has not improved for 2 epochs" in done.stdout, done.stderr
    assert state(tmp_path / "tiny")["stale_epochs"] == 2


def test_more_epochs_alone_do_not_continue_an_early_stopped_run_and_the_reason_is_said(shards, tmp_path):
    flags = (*PATIENCE, "1", "--schedule.name", "baseline")
    assert train_with_declining_metrics(tmp_path, shards, *flags).returncode == 0
    done = train_with_declining_metrics(tmp_path, shards, *flags, "--train.epochs", "9")
    assert done.returncode == 0, done.stderr
    assert "Already finished. Stopped early after 2 epochs" in done.stdout
    assert "It trains on with a larger early_stopping.patience" in done.stdout


def test_the_monitored_metric_may_not_change(shards, tmp_path):
    """The best value so far is one of the old metric."""
    assert train_with_declining_metrics(tmp_path, shards, *PATIENCE, "1").returncode == 0
    done = run(trainer(tmp_path, shards, *PATIENCE, "0", "--early_stopping.monitor", "train_loss"))
    assert done.returncode == 2
    assert "early_stopping.monitor was val_top1, now train_loss" in done.stderr
