"""python -m regnet.report on runs of the trainer: the report agrees with the files of the runs."""

import re
import socket
import statistics
import subprocess

import numpy as np
import pytest
import torch
from images import class_folders
from PIL import Image
from programs import ROOT, kill_group, result, rows, run, start, trainer, wait_until
from report_files import (
    CURVES,
    classes_of,
    entries,
    key_figures,
    plain,
    provenance_of,
    report,
    table,
    text_of,
    written,
)
from test_convert import convert

from regnet.metrics.evaluation_file import read_evaluation_file

pytestmark = pytest.mark.xdist_group("report")  # the runs are trained once


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Two seeds of one configuration, and a preempted and resumed run with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *flags in (("even-0", "--seed", "0"), ("even-1", "--seed", "1"), ("steep", "--optim.lr", "0.02")):
        command = trainer(folder, shards, "--name", name, "--optim.lr", "0.01", *flags)
        if name == "steep":
            preempted = run(trainer(folder, shards, "--name", name, *flags, "--train.max_minutes", "0.0001"))
            assert preempted.returncode == 75, preempted.stderr
        assert run(command).returncode == 0
    return folder


@pytest.fixture(scope="module")
def single(runs):
    assert written(runs / "steep") == runs / "steep" / "report" / "index.html"
    return runs / "steep" / "report"


def test_headings_and_captions_use_the_terms_of_the_field(single):
    text = text_of(single / "index.html")
    sections = ["Training curves", "Accuracy per class", "Calibration", "Confusions", "Most confident errors"]
    sections += ["Run history", "Provenance and configuration"]
    assert re.findall("<h2[^>]*>(.*?)</h2>", text) == sections
    assert [plain(caption) for caption in re.findall("<figcaption><strong>(.*?)</strong>", text)] == [
        "Loss",
        "Top-1 accuracy, %",
        "Training loss per step",
        "Learning rate",
        "Training throughput, images/s",
        "Time per epoch, with evaluation, s",
        "Reliability diagram",
        "Confidence and accuracy by bin",
        "Most frequent confusions",
        "Confusion matrix, row-normalised",
    ]


def test_accuracies_equal_those_in_the_runs_files(runs, single):
    index = single / "index.html"
    expected, epochs = result(runs / "steep"), rows(runs / "steep", "epoch")
    best = max(epochs, key=lambda epoch: epoch["val_top1"])
    found = key_figures(index)
    assert found["epochs"] == "2/2 finished"
    assert found["best validation top-1 (epoch)"] == f"{100 * best['val_top1']:.2f} % ({best['epoch']})"
    for name, column in (("top-1", "top1"), ("top-5", "top5")):
        assert found[f"final validation {name}"] == f"{100 * expected[column]:.2f} %"
    assert found["final validation loss"] == f"{expected['loss']:.3f}"
    assert found["final training loss"] == f"{epochs[-1]['train_loss']:.3f}"
    assert found["calibration error (ECE)"] == f"{100 * expected['calibration_error']:.2f} %"
    classes = classes_of(index)
    assert {name: (samples, accuracy) for name, samples, accuracy in classes} == {
        name: (expected["class_samples"][name], f"{100 * accuracy:.1f} %")
        for name, accuracy in expected["class_accuracy"].items()
    }
    accuracies = [expected["class_accuracy"][name] for name, _, _ in classes]
    assert accuracies == sorted(accuracies, reverse=True)


def test_calibration_bins_make_up_the_calibration_error(runs, single):
    expected, evaluation = result(runs / "steep"), read_evaluation_file(runs / "steep" / "evaluation.npz")
    samples, correct, confidence = evaluation.calibration
    assert samples.sum() == expected["samples"]
    assert correct.sum() == round(expected["top1"] * expected["samples"])
    assert np.abs(confidence - correct).sum() / samples.sum() == pytest.approx(expected["calibration_error"])
    bins = table(single / "index.html", "bins")
    assert sum(int(row[1].replace(",", "")) for row in bins) == expected["samples"]
    error = sum(int(row[1]) * abs(float(row[4].removesuffix(" %").replace("−", "-"))) for row in bins) / samples.sum()
    assert error == pytest.approx(100 * expected["calibration_error"], abs=0.01)


def test_confusions_and_confident_errors_are_those_of_the_last_evaluation(runs, single):
    evaluation, expected = read_evaluation_file(runs / "steep" / "evaluation.npz"), result(runs / "steep")
    assert evaluation.confusion.sum() == expected["samples"]
    assert evaluation.confusion.diagonal().sum() == round(expected["top1"] * expected["samples"])
    names = evaluation.classes.tolist()
    for pair in entries(single / "index.html", "confused"):
        count, percent, label, predicted = re.fullmatch(r"(\d+) (\d+) % (\S+) → (\S+)", pair).groups()
        row = evaluation.confusion[names.index(label)]
        assert row[names.index(predicted)] == int(count)
        assert float(percent) == pytest.approx(100 * int(count) / row.sum(), abs=0.5)
    assert len(evaluation.images) == 24
    assert (evaluation.labels != evaluation.predicted).all()
    assert (np.diff(evaluation.confidence) <= 0).all()
    text = text_of(single / "index.html").replace("<wbr>", "")
    assert text.count("<img ") == 24
    first = re.search(r"<img [^>]*><figcaption>(.*?)</figcaption>", text)[1]
    names_of_first = names[evaluation.labels[0]], names[evaluation.predicted[0]]
    assert plain(first) == "{} as {} {:.1f} %".format(*names_of_first, 100 * evaluation.confidence[0])


def test_confident_errors_keep_their_images(tmp_path):
    """Every class has its own colour, and so must the image of an error."""
    source = class_folders(tmp_path / "images", classes=("red", "green", "blue"), train=10, val=9)
    for channel, name in enumerate(("red", "green", "blue")):
        for path in source.rglob(f"{name}/*.png"):
            Image.fromarray(np.eye(3, dtype=np.uint8)[None, None, channel].repeat(32, 0).repeat(32, 1) * 200).save(path)
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "shards").returncode == 0
    still = ("--optim.lr", "1e-6", "--schedule.start_lr", "1e-6", "--schedule.min_lr", "0", "--train.batch_size", "10")
    done = run(trainer(tmp_path, tmp_path / "shards", *still, processes=2))
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation_file(tmp_path / "tiny" / "evaluation.npz")
    errors = evaluation.confusion.sum() - evaluation.confusion.trace()
    assert 0 < len(evaluation.images) == errors < 24, "of both ranks"
    assert evaluation.calibration[0].sum() == 27, "of both ranks"
    for image, label in zip(evaluation.images, evaluation.labels, strict=True):
        name = evaluation.classes[label]
        expected = 200 * np.eye(3)[("red", "green", "blue").index(name)]
        assert np.abs(image - expected).max() <= 1, name


def test_seeds_are_combined_and_only_different_options_are_listed(runs, tmp_path):
    index = written(runs / "even-0", runs / "even-1", runs / "steep", "--out", tmp_path / "out")
    found = {row[0]: row for row in table(index, "runs")}
    assert list(found) == ["even-0", "even-1", "steep", "even (2 seeds)"]
    best = [100 * max(epoch["val_top1"] for epoch in rows(runs / name, "epoch")) for name in ("even-0", "even-1")]
    assert found["even (2 seeds)"][3] == f"{statistics.mean(best):.2f} ± {statistics.stdev(best):.2f} %"
    options = {row[0]: row[1:] for row in table(index, "differences")}
    assert options == {
        "name": ["even-0", "even-1", "steep"],
        "seed": ["0", "1", "3"],
        "optim.lr": ["0.01", "0.01", "0.02"],
    }
    assert "Whiskers: ± one standard deviation over seeds" in text_of(index)


def test_the_run_history_is_in_order(single):
    events = [row[1:] for row in table(single / "index.html", "events")]
    assert [row[:2] for row in events] == [["1", "started"], ["1", "preempted"], ["2", "started"], ["2", "finished"]]
    steps = [int(row[3]) for row in events]
    assert steps[0] == 0 < steps[1] == steps[2] < steps[3] == 22
    assert "from step" in events[2][4]
    assert events[3][4] == "Finished after 2 epochs"


def test_the_provenance_names_command_versions_and_files(runs, single):
    found = provenance_of(single / "index.html")
    assert "train_ddp.py" in found["command"]
    assert "--optim.lr 0.02" in found["command"]
    assert (found["host"], found["PyTorch"]) == (socket.gethostname(), torch.__version__)
    assert found["device"].startswith("cpu (")
    assert found["threads per process"] == "1"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=20).stdout
    assert found["git commit"].removesuffix("-dirty") == commit.strip()
    for name, file in (("best checkpoint", "checkpoints/best.pt"), ("configuration", "config.yaml")):
        assert found[name] == str(runs / "steep" / file)
        (link,) = re.findall(rf'href="(\.\./{file})"', (single / "index.html").read_text())
        assert (single / link).resolve() == runs / "steep" / file


def test_figures_are_also_written_as_png_files(single):
    names = {path.name for path in single.glob("*.png")}
    others = {"classes-1.png", "classes-2.png", "calibration.png", "confusion.png", "confident_errors.png"}
    assert names == CURVES | others
    for name in names:
        colours = np.ptp(np.asarray(Image.open(single / name).convert("RGB")).astype(int), axis=2)
        assert (colours > 60).sum() > 100 or name == "classes-2.png", name


def test_a_report_can_be_written_during_training(shards, tmp_path):
    process = start(trainer(tmp_path, shards, "--train.epochs", "30", "--tracking.log_every", "1"))
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "step"))
        early = report(tmp_path / "tiny", "--out", tmp_path / "early")
        wait_until(lambda: rows(tmp_path / "tiny", "epoch"))
        late = report(tmp_path / "tiny", "--out", tmp_path / "late")
        assert process.poll() is None, "over too early"
    finally:
        kill_group(process)
    with open(tmp_path / "tiny" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')
    torn = report(tmp_path / "tiny", "--out", tmp_path / "torn")
    step_curves = {"steps.png", "learning_rate.png"}  # the others need an epoch
    for done, folder, status, at_least in (
        (early, "early", "running", step_curves),
        (late, "late", "running", CURVES),
        (torn, "torn", "died", CURVES),
    ):
        assert done.returncode == 0, done.stderr
        index = tmp_path / folder / "index.html"
        assert ("while training was in progress" in text_of(index)) is (status == "running")
        assert "Available when a run has finished" in text_of(index)
        assert at_least <= {path.name for path in (tmp_path / folder).glob("*.png")} <= CURVES
        assert key_figures(index)["epochs"].endswith(status)


def test_the_run_writes_its_report_when_it_finishes(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--tracking.report", "true", processes=2))
    assert done.returncode == 0, done.stderr
    index = tmp_path / "tiny" / "report" / "index.html"
    assert done.stdout.count(f"report: {index}") == 1
    assert key_figures(index)["epochs"] == "2/2 finished"


def test_a_report_that_cannot_be_written_does_not_fail_the_run(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "report").write_text("in the way")
    done = run(trainer(tmp_path, shards, "--tracking.report", "true"))
    assert done.returncode == 0, done.stderr
    assert "the report could not be written (FileExistsError" in done.stdout


def test_a_converted_folder_with_odd_names_is_trained_and_reported(tmp_path):
    """Characters that mean something to rich, matplotlib or HTML, or are written from right to left."""
    names = ("[bold]", ":smile:", "$x_1$", "<b>&", "#010108", "شجرة")
    source = class_folders(tmp_path / "images", classes=names, train=6, val=3)
    converted = convert("--source", "folder", "--root", source, "--out", tmp_path / "shards")
    assert converted.returncode == 0, converted.stderr
    flags = ("--train.batch_size", "8", "--tracking.report", "true", "--tracking.console_classes", "true")
    trained = run(trainer(tmp_path, tmp_path / "shards", *flags))
    assert (trained.returncode, trained.stderr, "could not be written" in trained.stdout) == (0, "", False)
    assert all(f"{name} " in trained.stdout for name in names)
    assert {name for name, _, _ in classes_of(tmp_path / "tiny" / "report" / "index.html")} == set(names)
