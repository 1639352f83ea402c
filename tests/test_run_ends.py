"""Where a run ends: between epochs, whatever changed between its attempts; and its report is written."""

import signal

from limits import LIMIT
from processes import ROOT, faulty_trainer, run, start, trainer, wait_until
from run_directory import outcome, result, rows, state

import train_ddp

BASELINE = ("--schedule.name", "baseline", "--train.epochs")
SHORT = ("--train.max_steps_per_epoch", "4", "--checkpoint.every_steps", "1", "--tracking.log_every", "1")


def preempt_at_step(command, run_dir, step):
    process = start(command)
    wait_until(lambda: len(rows(run_dir, "step")) >= step)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 75, err
    return state(run_dir)["step"]


def test_an_epoch_that_has_started_is_completed_with_fewer_epochs_too(shards, uninterrupted, tmp_path):
    """Otherwise the result would be that of weights in the middle of an epoch."""
    flags = (*SHORT, *BASELINE)
    step = preempt_at_step(trainer(tmp_path, shards, *flags, "400"), tmp_path / "tiny", 5)
    epochs = -(-step // 4)
    done = run(trainer(tmp_path, shards, *flags, "1"))
    assert f"Finished after {epochs} epochs" in done.stdout, done.stderr
    assert result(tmp_path / "tiny")["epochs"] == epochs
    assert outcome(tmp_path / "tiny")[:-1] == uninterrupted(*flags, str(epochs))[:-1]


def test_an_epoch_that_has_started_is_completed_with_less_patience_too(shards, tmp_path):
    def declining(patience):
        flags = (*SHORT, "--train.epochs", "99", "--early_stopping.monitor", "val_top1", "--early_stopping.patience")
        return faulty_trainer(tmp_path, shards, "declining_metrics", *flags, patience)

    step = preempt_at_step(declining("0"), tmp_path / "tiny", 9)
    epochs = -(-step // 4)
    done = run(declining("1"))
    assert f"Stopped early after {epochs} epochs" in done.stdout, done.stderr
    assert len(rows(tmp_path / "tiny", "step")) == 4 * epochs


def test_a_time_limit_ends_one_run_of_a_python_program_and_not_the_next(shards, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    flags = trainer(tmp_path, shards, "--train.max_steps_per_epoch", "2").arguments[1:]
    assert train_ddp.main([*flags, "--train.max_minutes", "1e-9"]) == 75
    assert train_ddp.main(flags) == 0, capfd.readouterr()
    assert "Finished after 2 epochs" in capfd.readouterr().out


def test_a_finished_run_without_a_report_gets_one(shards, tmp_path):
    """Its process was killed while it drew the report."""
    flags = ("--train.max_steps_per_epoch", "2", "--train.epochs", "1")
    report = tmp_path / "tiny" / "report" / "index.html"
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    assert not report.exists()
    done = run(trainer(tmp_path, shards, *flags, "--tracking.report", "true"))
    assert "Already finished" in done.stdout, done.stderr
    assert f"report: {report}" in done.stdout
    written = report.stat().st_mtime_ns
    again = run(trainer(tmp_path, shards, *flags, "--tracking.report", "true"))
    assert ("report" in again.stdout, report.stat().st_mtime_ns) == (False, written)
