"""Runs written by hand for tests of the report, and what a report contains."""

import html
import json
import re
from pathlib import Path

import numpy as np
import yaml
from fork_server import ForkedCommand
from processes import run

from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.status import RunState, Status

CURVES = {"loss.png", "accuracy.png", "steps.png", "learning_rate.png", "speed.png", "time.png"}
OPTIONAL = {"classes.png", "calibration.png", "confusion.png", "confident_errors.png"}  # of a finished run
BINS = 15


def report(*arguments):
    return run(ForkedCommand(["-m", "regnet.report", *map(str, arguments)]))


def written(*arguments):
    """The path of the HTML file; the command must succeed without a line on standard error."""
    done = report(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return Path(done.stdout.strip())


def one_line_error(*arguments):
    done = report(*arguments)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.stderr
    return done.stderr


def write_run(
    path, *, classes=("ant", "bee", "cat"), config=None, seed=0, epochs=3, top1=0.5, finished=True, data="id"
):
    """A run of `epochs` epochs with ten steps each; its validation accuracy reaches `top1` in the last epoch."""
    path.mkdir(parents=True)
    state = RunState(
        Status.finished if finished else Status.preempted, epochs, 10 * epochs, 0, 1, 0, epochs, data, "", "abc", "", ()
    )
    (path / "state.json").write_text(state.to_json())
    options = {"name": path.name, "seed": seed, "data": {"shards": "shards/x"}, "optim": {"lr": 0.1}, **(config or {})}
    (path / "config.yaml").write_text(yaml.safe_dump(options))
    lines = [step_row(step, epochs) for step in range(1, 10 * epochs + 1)]
    lines += [epoch_row(epoch, epochs, top1) for epoch in range(1, epochs + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    event = {"time": "2026-01-01T00:00:00+00:00", "kind": "started", "attempt": 1, "epoch": 0, "step": 0}
    (path / "events.jsonl").write_text(json.dumps({**event, "detail": "1 x cpu"}) + "\n")
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "best.pt").write_bytes(b"")
    if finished:
        write_evaluation(path, classes, epochs)
    return path


def step_row(step, epochs):
    return {"kind": "step", "epoch": 1, "step": step, "lr": 0.1 * (1 - step / (10 * epochs)), "loss": 4 / step}


def epoch_row(epoch, epochs, top1=0.5):
    accuracy = top1 * epoch / epochs
    losses = {"train_loss": 4 / epoch, "val_loss": 5 / epoch}
    speed = {"seconds": 2.0, "images_per_second": 1000.0 + epoch}
    return {
        "kind": "epoch",
        "epoch": epoch,
        **losses,
        **speed,
        "train_top1": accuracy,
        "val_top1": accuracy,
        "val_top5": 1,
    }


def write_evaluation(path, classes, epochs=3, confusion=None, calibration="recorded"):
    """result.json and evaluation.npz; by default i of the 10 + i samples of class i are predicted as the next class."""
    count = len(classes)
    if confusion is None:
        confusion = np.diag(np.full(count, 10)) + np.roll(np.diag(np.arange(count)), 1, axis=1)
    correct, samples = confusion.diagonal(), confusion.sum(1)
    errors = [(row, column) for row, column in zip(*np.nonzero(confusion), strict=True) if row != column][:6]
    total, hits = int(samples.sum()), int(correct.sum())
    bins = np.zeros((3, BINS))
    samples_of_bin, centres = total * np.arange(8) / 28, np.arange(3.5, 11) / BINS
    bins[:, 3:11] = samples_of_bin, samples_of_bin * hits / max(total, 1), samples_of_bin * centres
    result = {
        "top1": hits / max(total, 1),
        "top5": 1.0,
        "loss": 0.5,
        "calibration_error": abs(hits - 0.64 * total) / max(total, 1),
        "samples": total,
        "epochs": epochs,
        "parameters": 12345,
        "class_accuracy": {
            name: int(hit) / int(of) if of else None for name, hit, of in zip(classes, correct, samples, strict=True)
        },
        "class_samples": {name: int(of) for name, of in zip(classes, samples, strict=True)},
    }
    (path / "result.json").write_text(json.dumps(result))
    evaluation = EvaluationFile(
        classes=np.array(classes),
        confusion=confusion,
        confidence=np.linspace(0.9, 0.4, len(errors)).astype(np.float32),
        labels=np.array([row for row, _ in errors], dtype=np.int64),
        predicted=np.array([column for _, column in errors], dtype=np.int64),
        images=np.full((len(errors), 8, 8, 3), 99, np.uint8),
        calibration=bins if calibration == "recorded" else None,
    )
    (path / "evaluation.npz").write_bytes(evaluation.to_bytes())


def text_of(index):
    return html.unescape(index.read_text())


def plain(markup):
    """The text of a piece of HTML, with a space for each element."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup.replace("<wbr>", ""))).split())


def table(index, name, heading=False):
    """The cells of a table of the report, without or with its heading."""
    (content,) = re.findall(rf'<table id="{name}"[^>]*>(.*?)</table>', index.read_text(), re.DOTALL)
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", content, re.DOTALL)[0 if heading else 1 :]
    return [[plain(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)] for line in lines]


def key_figures(index):
    """The headings and values at the top of the report of one run."""
    (content,) = re.findall(r'<dl class="key-figures" id="run">(.*?)</dl>', index.read_text(), re.DOTALL)
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", content, re.DOTALL)
    return {heading: plain(value) for heading, value in pairs}


def entries(index, name):
    """The items of a list of the report."""
    (content,) = re.findall(rf'<ol [^>]*id="{name}">(.*?)</ol>', index.read_text(), re.DOTALL)
    items = re.findall(r"<li>(.*?)</li>", content, re.DOTALL)
    return [plain(item) for item in items]


def classes_of(index):
    """(name, samples, accuracy) in the order of the list of classes."""
    found = [re.fullmatch(r"(.*) \((\d+)\) (.*)", item) for item in entries(index, "class-accuracy")]
    return [(match[1], int(match[2]), match[3]) for match in found]


def provenance_of(index):
    """The names and values of the (last run's) provenance."""
    content = re.findall(r'<dl class="origin">(.*?)</dl>', index.read_text(), re.DOTALL)[-1]
    return {
        plain(name): plain(value) for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", content, re.DOTALL)
    }
