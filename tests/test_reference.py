"""python -m benchmarks.reference: a run beside another program's log."""

import csv
import json

import pytest
from nursery import ForkedCommand
from programs import rows, run, trainer

from benchmarks.reference import COLUMNS


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = run(trainer(folder, shards))
    assert done.returncode == 0, done.stderr
    return folder / "tiny"


def write_log(path, trained, **changed):
    """What the other program would have printed, had it done the same in batches of 50."""
    with open(path, "w", newline="") as file:
        log = csv.DictWriter(file, COLUMNS)
        log.writeheader()
        for row in rows(trained, "epoch"):
            figures = (row["epoch"], round(row["lr"], 6), row["train_loss"] / 50, 100 * row["val_top1"])
            log.writerow(dict(zip(COLUMNS, figures, strict=True)) | changed)


def compare(trained, folder, *options):
    command = ["-m", "benchmarks.reference", "--run", str(trained), "--log", str(folder / "log.csv")]
    return run(ForkedCommand([*command, "--log-batch-size", "50", *options]))


def test_a_run_is_laid_over_the_log(trained, tmp_path):
    write_log(tmp_path / "log.csv", trained)
    to = ("--json", str(tmp_path / "report.json"), "--picture", str(tmp_path / "curves.png"))
    done = compare(trained, tmp_path, *to)
    assert done.returncode == 0, done.stderr
    assert "learning rates: the same; accuracy after epoch 2: +0.00 points" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for pair in json.loads((tmp_path / "report.json").read_text())["epochs"]:
        assert pair["ours"] == pytest.approx(pair["theirs"], abs=1e-6)


def test_other_rates_and_accuracies_are_told(trained, tmp_path):
    write_log(tmp_path / "log.csv", trained, lr=0.5, test_accuracy_percent=0)
    done = compare(trained, tmp_path)
    accuracy = rows(trained, "epoch")[-1]["val_top1"]
    assert f"learning rates: NOT the same; accuracy after epoch 2: {100 * accuracy:+.2f} points" in done.stdout


@pytest.mark.parametrize("text", [None, "epoch,lr\n1,0.1\n", "epoch\nfirst\n"])
def test_what_is_no_log_or_no_run_is_one_line(trained, tmp_path, text):
    if text is not None:
        (tmp_path / "log.csv").write_text(text)
    done = compare(trained, tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    write_log(tmp_path / "log.csv", trained)
    done = compare(tmp_path, tmp_path)
    assert done.returncode == 2
    assert "no epoch that" in done.stderr
