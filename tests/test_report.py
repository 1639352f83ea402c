"""python -m regnet.report on runs of the trainer: the report agrees with the files of the runs."""

import glob
import re
import socket
import subprocess

import numpy as np
import pytest
import torch
from converting import convert
from fork_server import ForkedCommand
from images import class_folders
from limits import LIMIT
from PIL import Image
from processes import ROOT, kill_group, run, start, trainer, wait_until
from report_files import (
    CURVES,
    classes_of,
    entries,
    key_figures,
    plain,
    provenance_of,
    table,
    text_of,
    write_run,
    written,
)
from run_directory import result, rows

from regnet.metrics.evaluation_file import read_evaluation_file
from regnet.report import write_run_report

pytestmark = pytest.mark.xdist_group("report")  # the runs are trained once


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """A preempted and resumed run, which wrote its report when it finished."""
    folder = tmp_path_factory.mktemp("runs")
    command = trainer(folder, shards, "--name", "steep", "--optim.lr", "0.02", "--tracking.report", "true")
    preempted = run(ForkedCommand([*command.arguments, "--train.max_minutes", "0.0001"]))
    assert (preempted.returncode, preempted.stdout.count("report:")) == (75, 0), preempted.stderr
    finished = run(command)
    assert finished.returncode == 0, finished.stderr
    assert f"report: {folder / 'steep' / 'report' / 'index.html'}\n" in finished.stdout
    return folder


@pytest.fixture(scope="module")
def single(runs):
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
    assert found["best validation top-1"] == f"{100 * best['val_top1']:.2f} % epoch {best['epoch']}"
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


def test_a_converted_folder_with_odd_names_is_trained_and_reported(tmp_path):
    """Characters that mean something to rich, matplotlib or HTML, or are written from right to left.

    Every class has its own colour, and so must the image of an error.
    """
    names = ("[bold] <b>&", "$x_1$ :smile:", "شجرة #010108")
    source = class_folders(tmp_path / "images", classes=names, train=10, val=9)
    for channel, name in enumerate(names):
        for path in source.rglob(f"{glob.escape(name)}/*.png"):
            Image.fromarray(np.eye(3, dtype=np.uint8)[None, None, channel].repeat(32, 0).repeat(32, 1) * 200).save(path)
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "shards").returncode == 0
    still = ("--optim.lr", "1e-6", "--schedule.start_lr", "1e-6", "--schedule.min_lr", "0", "--train.batch_size", "10")
    flags = ("--tracking.report", "true", "--tracking.console_classes", "true")
    done = run(trainer(tmp_path, tmp_path / "shards", *still, *flags, processes=2))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"{name} " in done.stdout for name in names)
    index = tmp_path / "tiny" / "report" / "index.html"
    assert done.stdout.count(f"report: {index}") == 1, "of rank zero"
    assert {name for name, _, _ in classes_of(index)} == set(names)
    evaluation = read_evaluation_file(tmp_path / "tiny" / "evaluation.npz")
    errors = evaluation.confusion.sum() - evaluation.confusion.trace()
    assert 0 < len(evaluation.images) == errors < 24, "of both ranks"
    assert evaluation.calibration[0].sum() == 27, "of both ranks"
    for image, label in zip(evaluation.images, evaluation.labels, strict=True):
        expected = 200 * np.eye(3)[names.index(evaluation.classes[label])]
        assert np.abs(image - expected).max() <= 1, evaluation.classes[label]


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
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    ).stdout
    assert found["git commit"].removesuffix("-dirty") == commit.strip()
    for name, file in (("best checkpoint", "checkpoints/best.pt"), ("configuration", "config.yaml")):
        assert found[name] == str(runs / "steep" / file)
        (link,) = re.findall(rf'href="(\.\./{file})"', (single / "index.html").read_text())
        assert (single / link).resolve() == runs / "steep" / file


@pytest.mark.thorough
def test_figures_are_written_as_png_files_on_request(runs, single, tmp_path):
    assert [path.name for path in single.iterdir()] == ["index.html"]
    folder = written(runs / "steep", "--out", tmp_path, "--png").parent
    names = {path.name for path in folder.glob("*.png")}
    others = {"classes-1.png", "classes-2.png", "calibration.png", "confusion.png", "confident_errors.png"}
    assert names == CURVES | others
    for name in names:
        colours = np.ptp(np.asarray(Image.open(folder / name).convert("RGB")).astype(int), axis=2)
        assert (colours > 60).sum() > 100 or name == "classes-2.png", name


def test_a_report_can_be_written_during_training(shards, tmp_path):
    process = start(trainer(tmp_path, shards, "--train.epochs", "1000", "--tracking.log_every", "1"))
    try:
        wait_until(lambda: rows(tmp_path / "tiny", "epoch"))
        running = written(tmp_path / "tiny", "--out", tmp_path / "running")
        assert process.poll() is None, "over too early"
    finally:
        kill_group(process)
    with open(tmp_path / "tiny" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')
    died = written(tmp_path / "tiny", "--out", tmp_path / "died")
    for index, status in ((running, "running"), (died, "died")):
        assert ("while training was in progress" in text_of(index)) is (status == "running")
        assert "Available when a run has finished" in text_of(index)
        assert index.read_text().count('<div class="chart') == len(CURVES)
        assert key_figures(index)["epochs"].endswith(status)


def test_a_report_that_cannot_be_written_does_not_fail_the_run(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    (run / "report").write_text("in the way")
    write_run_report(run)
    assert capsys.readouterr().out == (
        f"the report could not be written (FileExistsError: [Errno 17] File exists: '{run}/report'); "
        f"to try again: python -m regnet.report {run}\n"
    )
