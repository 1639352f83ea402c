"""python -m benchmarks.baseline_curves: a run compared with the log of the baseline."""

import csv
import json

import pytest
from fork_server import ForkedCommand
from processes import run, trainer
from run_directory import rows

from benchmarks.baseline_curves import COLUMNS


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    finished = run(trainer(folder, shards))
    assert finished.returncode == 0, finished.stderr
    return folder / "tiny"


def write_log(path, trained, **changed):
    """The log that the baseline would have written for the same training with batches of 50."""
    with open(path, "w", newline="") as file:
        log = csv.DictWriter(file, COLUMNS)
        log.writeheader()
        for row in rows(trained, "epoch"):
            values = (row["epoch"], round(row["lr"], 6), row["train_loss"] / 50, 100 * row["val_top1"])
            log.writerow(dict(zip(COLUMNS, values, strict=True)) | changed)


def compare_with_log(trained, folder, *options):
    command = ["-m", "benchmarks.baseline_curves", "--run", str(trained), "--log", str(folder / "log.csv")]
    return run(ForkedCommand([*command, "--log-batch-size", "50", *options]))


def test_a_run_is_compared_with_the_log(trained, tmp_path):
    write_log(tmp_path / "log.csv", trained)
    outputs = ("--json", str(tmp_path / "report.json"), "--figure", str(tmp_path / "curves.png"))
    finished = compare_with_log(trained, tmp_path, *outputs)
    assert finished.returncode == 0, finished.stderr
    assert "learning rates: equal; accuracy after epoch 2: +0.00 points" in finished.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for pair in json.loads((tmp_path / "report.json").read_text())["epochs"]:
        assert pair["ours"] == pytest.approx(pair["theirs"], abs=1e-6)


def test_differences_in_learning_rate_and_accuracy_are_reported(trained, tmp_path):
    write_log(tmp_path / "log.csv", trained, lr=0.5, test_accuracy_percent=0)
    finished = compare_with_log(trained, tmp_path)
    accuracy = rows(trained, "epoch")[-1]["val_top1"]
    assert f"learning rates: DIFFERENT; accuracy after epoch 2: {100 * accuracy:+.2f} points" in finished.stdout


@pytest.mark.parametrize("text", [None, "epoch,lr\n1,0.1\n", "epoch\nfirst\n"])
def test_an_invalid_log_or_run_is_reported_in_one_line(trained, tmp_path, text):
    if text is not None:
        (tmp_path / "log.csv").write_text(text)
    finished = compare_with_log(trained, tmp_path)
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1
    write_log(tmp_path / "log.csv", trained)
    finished = compare_with_log(tmp_path, tmp_path)
    assert finished.returncode == 2
    assert "have no epoch in common" in finished.stderr
