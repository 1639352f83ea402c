"""What trackers report: the console, and Weights & Biases, which never delays or ends a run."""

import base64
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import LIMIT, scaled
from PIL import Image
from processes import PYTHON, ROOT, faulty_trainer, kill_group, run, start, trainer, wait_until, with_fault
from run_directory import result, rows, state
from thoroughness import parametrize_some
from wandb_file import read_run
from wandb_helpers import KEY, assert_complete, server

from regnet.config.parser import parse_config
from regnet.metrics.evaluation import Evaluation
from regnet.metrics.evaluation_file import read_evaluation_file
from regnet.metrics.training import TrainingResult
from regnet.tracking.base import EpochReport
from regnet.tracking.console import ConsoleTracker

REPORT = EpochReport(
    epoch=3,
    step=60,
    lr=0.0001,
    train=TrainingResult(samples=640, loss=4.12309, top1=0.1, top5=0.3, class_correct=(64,), class_samples=(640,)),
    val=Evaluation(200, 3.90123, 0.1045, 0.2981, 0.1, torch.zeros(2, 2)),
    seconds=6.94,
    images_per_second=2953.4,
)
RESULT = {"top1": 0.8617, "top5": 0.999, "samples": 4000, "class_accuracy": {"[red]": 0.5, ":smile:": 1.0}}
OFFLINE = pytest.mark.xdist_group("offline")  # one run for all of these
QUICK = ("--train.max_steps_per_epoch", "4", "--tracking.log_every", "2")


def console(*flags):
    return ConsoleTracker(parse_config(["--train.epochs", "40", "--train.batch_size", "500", *flags]))


def test_the_epoch_line_shows_losses_accuracies_learning_rate_and_speed(capsys):
    console().log_epoch(REPORT)
    line = "epoch  3/40  loss 4.1231  val_loss 3.9012  top1 10.45%  top5 29.81%  lr 0.000100  2,953 img/s  6.9 s\n"
    assert capsys.readouterr().out == line


def test_the_epoch_lines_are_aligned(capsys):
    for epoch, top1 in ((9, 0.01), (10, 0.5)):
        console().log_epoch(replace(REPORT, epoch=epoch, val=replace(REPORT.val, top1=top1)))
    first, second = capsys.readouterr().out.splitlines()
    assert "epoch  9/40 " in first
    assert "top1  1.00% " in first
    assert len(first) == len(second)


def test_the_baseline_format_is_the_line_of_the_original_program(capsys):
    console("--tracking.console_format", "baseline").log_epoch(REPORT)
    assert capsys.readouterr().out == "Epoch 3 lr = 0.000100 avg_loss = 0.008246 accuracy = 10.45% time = 6.94s\n"


def test_the_baseline_configuration_uses_that_format():
    assert parse_config(["--config", str(ROOT / "configs" / "baseline.yaml")]).tracking.console_format == "baseline"


def test_the_final_line_is_the_validation_accuracy(capsys):
    console().log_result(RESULT, None)
    assert capsys.readouterr().out == "validation accuracy: top-1 86.17%, top-5 99.90% (4,000 images)\n"


def test_accuracies_of_the_classes_are_printed_if_asked_for(capsys):
    """Under their own names, whatever markup these resemble."""
    console("--tracking.console_classes", "true").log_result(RESULT, None)
    _, classes = capsys.readouterr().out.splitlines()
    assert classes.split() == ["[red]", "50%", ":smile:", "100%"]


def offline_file(folder):
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return path


@pytest.fixture(scope="module")
def offline(shards, tmp_path_factory):
    """The directory of a run without an API key, and what Weights & Biases recorded."""
    home = tmp_path_factory.mktemp("offline")
    flags = (*QUICK, "--tracking.wandb", "auto", "--tracking.wandb_artifact", "true")
    done = run(trainer(home, shards, *flags), HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert f"wandb sync {offline_file(home / 'tiny').parent}" in done.stdout
    return home / "tiny", read_run(offline_file(home / "tiny"))


@OFFLINE
def test_without_a_key_the_run_is_logged_offline_and_prints_the_command_for_the_upload(offline):
    folder, recorded = offline
    assert recorded["id"] == state(folder)["wandb_id"]
    assert recorded["config"]["optim"]["lr"] == 0.003
    steps = [row for row in recorded["rows"] if "train/loss" in row]
    assert [(row["step"], row["train/loss"], row["train/lr"]) for row in steps] == [
        (row["step"], row["loss"], row["lr"]) for row in rows(folder, "step")
    ]
    epochs = [row for row in recorded["rows"] if "val/top1" in row]
    columns = {"epoch": "epoch", "val/top1": "val_top1", "val/loss": "val_loss", "val/top5": "val_top5"}
    columns |= {"train/epoch_loss": "train_loss", "train/top1": "train_top1"}
    assert [{theirs: row[ours] for ours, theirs in columns.items()} for row in epochs] == [
        {name: row[name] for name in columns.values()} for row in rows(folder, "epoch")
    ]
    for row in epochs:
        assert min(row["time/epoch_seconds"], row["time/images_per_second"], row["system/peak_memory_gb"]) > 0
    assert recorded["stats"] > 0, "system metrics"


@OFFLINE
def test_charts_are_grouped_and_the_summary_has_the_best_values(offline):
    folder, recorded = offline
    axes = {name: axis for name, (axis, _) in recorded["metrics"].items()}
    assert axes["train/*"] == "step"
    assert axes["time/*"] == axes["val/*"] == axes["system/peak_memory_gb"] == "epoch"
    epochs, summary = rows(folder, "epoch"), recorded["summary"]
    assert summary["best/top1"] == max(row["val_top1"] for row in epochs)
    assert summary["best/top5"] == max(row["val_top5"] for row in epochs)
    assert summary["best/loss"] == min(row["val_loss"] for row in epochs)
    expected = result(folder)
    for name in ("top1", "top5", "loss", "calibration_error"):
        assert summary[f"final/{name}"] == expected[name]


@OFFLINE
def test_there_are_tables_of_classes_confusions_and_confident_errors(offline):
    folder, recorded = offline
    expected, outcome = result(folder), read_evaluation_file(folder / "evaluation.npz")
    names = outcome.classes.tolist()

    def table(name):
        (path,) = folder.glob(f"wandb/offline-run-*/files/media/table/val/{name}_*.json")
        return json.loads(path.read_text())["data"]

    assert {row[0]: row[1] for row in table("classes")} == expected["class_accuracy"]
    confusion = table("confusion_table")
    assert {(row[0], row[1]): row[2] for row in confusion} == {
        (label, predicted): outcome.confusion[index, other]
        for index, label in enumerate(names)
        for other, predicted in enumerate(names)
        if outcome.confusion[index, other]
    }
    panel = recorded["config"]["_wandb/visualize/val/confusion"]["panel_config"]
    assert panel["panelDefId"] == "wandb/confusion_matrix/v1"
    (artifact,) = [saved for saved in recorded["artifacts"] if "confident_errors" in saved.name]
    files = {content.path: Path(content.local_path) for content in artifact.manifest.contents}
    error_rows = json.loads(files.pop("val/confident_errors.table.json").read_text())["data"]
    assert [(row[1], row[2]) for row in error_rows] == [
        (names[label], names[predicted]) for label, predicted in zip(outcome.labels, outcome.predicted, strict=True)
    ]
    for row, image in zip(error_rows, outcome.images, strict=True):
        assert (np.asarray(Image.open(files[row[0]["path"]])) == image).all()
        assert files[row[0]["path"]].is_relative_to(folder), "what is to be sent lies elsewhere"


@OFFLINE
def test_the_best_checkpoint_is_uploaded_if_requested(offline):
    folder, recorded = offline
    (artifact,) = [artifact for artifact in recorded["artifacts"] if artifact.type == "model"]
    assert (artifact.name, set(artifact.aliases)) == ("tiny", {"latest", "best"})
    (content,) = artifact.manifest.contents
    best = folder / "checkpoints" / "best.pt"
    assert (content.path, content.size) == ("best.pt", best.stat().st_size)
    assert content.digest == base64.b64encode(hashlib.md5(best.read_bytes()).digest()).decode()


def test_only_rank_zero_uses_weights_and_biases(shards, tmp_path):
    done = run(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "offline", processes=2))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "tiny").glob("wandb/offline-run-*"))) == 1


def test_the_server_receives_every_row(shards, tmp_path):
    with server() as wandb:
        flags = (*QUICK, "--tracking.wandb", "auto", "--tracking.wandb_artifact", "true")
        done = run(trainer(tmp_path, shards, *flags), **wandb.environment)
        assert done.returncode == 0, done.stderr
        assert "offline" not in done.stdout
        assert_complete(wandb.run()["history"], tmp_path / "tiny")
        sent = wandb.requests()
    assert any("UpsertBucket" in line.get("query", "") for line in sent)
    artifacts = [line["variables"]["input"] for line in sent if "CreateArtifact (" in line.get("query", "")]
    (best,) = [artifact for artifact in artifacts if artifact["artifactTypeName"] == "model"]
    assert {alias["alias"] for alias in best["aliases"]} == {"best", "latest"}


KILLED = {
    "killed while it trains": lambda folder: rows(folder, "step"),
    "killed at the end": lambda folder: (folder / "result.json").exists(),
}
# Servers that fail after the run has connected, and the faults of the run.
CONNECTED = dict.fromkeys(("falling silent", "dying", *KILLED), "connected_wandb")
CONNECTED["killed while it trains"] += ",outlives_wandb:0:4"


@pytest.fixture(scope="module")
def without_wandb(shards, tmp_path_factory):
    """The steps of a run without Weights & Biases, and its duration in seconds."""
    folder = tmp_path_factory.mktemp("without")
    started = time.monotonic()
    assert run(trainer(folder, shards, *QUICK)).returncode == 0
    return rows(folder / "tiny", "step"), time.monotonic() - started


@parametrize_some("behaviour", ["refusing", "absent", "failing", "silent", *CONNECTED])
def test_a_failing_server_delays_a_run_by_seconds_and_never_ends_it(shards, tmp_path, without_wandb, behaviour):
    steps, alone = without_wandb
    folder = tmp_path / "tiny"
    with server("well" if behaviour in KILLED else behaviour) as wandb:
        if behaviour == "absent":
            wandb.process.kill()
        started = time.monotonic()
        flags = (*QUICK, "--tracking.wandb", "online", "--tracking.wandb_timeout")
        if behaviour in CONNECTED:
            command = faulty_trainer(tmp_path, shards, CONNECTED[behaviour], *flags, str(scaled(3)))
        else:  # at its end, the run waits three times as long for two connections, after the import of wandb
            command = trainer(tmp_path, shards, *flags, str(scaled(6)))
        training = start(command, **wandb.environment)
        try:
            if behaviour in KILLED:
                wait_until(lambda: KILLED[behaviour](folder))
                wandb.process.kill()
            out, err = training.communicate(timeout=LIMIT)
        finally:
            kill_group(training)
        delay = time.monotonic() - started - alone
    print(f"{behaviour}: a delay of {delay:.1f} s")
    assert training.returncode == 0, err
    assert rows(folder, "step") == steps
    assert state(folder)["state"] == "finished"
    if behaviour not in CONNECTED:
        assert "cannot be used online" in out
        assert len(read_run(offline_file(folder))["rows"]) >= 8
    elif behaviour != "killed at the end":
        assert any(f"Weights & Biases {what}" in out for what in ("failed", "did not finish", "does not respond"))


@pytest.mark.thorough
def test_a_call_that_never_returns_is_abandoned(shards, tmp_path):
    flags = (*QUICK, "--tracking.wandb", "offline", "--tracking.wandb_timeout", "1")
    done = run(faulty_trainer(tmp_path, shards, "hanging_wandb", *flags, launcher=PYTHON))
    assert done.returncode == 0, done.stderr
    assert "Weights & Biases does not respond: the run ends without it" in done.stdout
    assert state(tmp_path / "tiny")["state"] == "finished"


def test_a_resumed_run_is_the_same_run_and_the_key_is_written_nowhere(shards, tmp_path):
    flags = ("--tracking.wandb", "offline", "--tracking.log_every", "1")
    interrupted = with_fault(trainer(tmp_path, shards, *flags), "waits_for_signal::15")
    process = start(interrupted, WANDB_API_KEY=KEY)
    wait_until(lambda: len(rows(tmp_path / "tiny", "step")) >= 12)
    kill_group(process)
    done = run(trainer(tmp_path, shards, *flags), WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "tiny").glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    recorded = read_run(max(files, key=lambda path: path.stat().st_mtime))
    assert recorded["id"] == state(tmp_path / "tiny")["wandb_id"]
    assert "model" not in {artifact.type for artifact in recorded["artifacts"]}, "not requested"
    for path in (tmp_path / "tiny").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in done.stdout + done.stderr
