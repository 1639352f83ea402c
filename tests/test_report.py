"""python -m regnet.report: the HTML file as text and in a real browser, and its figures."""

import html
import io
import json
import re
import shutil
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from browser import chromium, open_page
from fork_server import ForkedCommand
from hypothesis import given, settings
from hypothesis import strategies as st
from images import class_folders
from PIL import Image
from programs import kill_group, result, rows, run, start, trainer, wait_until
from test_convert import convert

from data.sources.cifar100_superclasses import SUPERCLASSES
from regnet.metrics.evaluation_file import read_evaluation_file
from regnet.report.curves import Column, Curve
from regnet.report.figure import PNG_PALETTE
from regnet.report.seed_groups import mean_over_runs, series_by_epoch

pytestmark = pytest.mark.xdist_group("report")  # the runs are trained once

CURVES = {"loss.png", "accuracy.png", "steps.png", "learning_rate.png", "speed.png", "time.png"}


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


def report(*arguments):
    return run(ForkedCommand(["-m", "regnet.report", *map(str, arguments)]))


@pytest.fixture(scope="module")
def single(runs):
    done = report(runs / "steep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(runs / "steep" / "report" / "index.html")
    return runs / "steep" / "report"


@pytest.fixture(scope="module")
def comparison(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    done = report(runs / "even-0", runs / "even-1", runs / "steep", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def text_of(index):
    return html.unescape(index.read_text())


def table(index, name, heading=False):
    """The cells of a table of the report, without or with its heading."""
    (content,) = re.findall(rf'<table id="{name}">(.*?)</table>', index.read_text(), re.DOTALL)
    lines = re.findall(r"<tr>(.*?)</tr>", content, re.DOTALL)[0 if heading else 1 :]
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)] for line in lines
    ]


@pytest.mark.parametrize(
    ("which", "width", "scheme"),
    [("single", 1280, "light"), ("comparison", 1280, "dark"), ("comparison", 390, "light")],
)
def test_a_browser_shows_the_report_without_errors_requests_or_empty_figures(browser, request, which, width, scheme):
    index = request.getfixturevalue(which) / "index.html"
    opened = open_page(browser, index, width, scheme)
    try:
        assert opened.console == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [index.as_uri()]
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        figures, errors, (heading,), texts = opened.pixels("figure > svg", ".errors img", "h1", "figure > svg text")
        assert (len(figures), len(errors)) == (len(CURVES) + 2 + 1, 24)
        for image in (*figures, *errors):
            assert min(image.shape[:2]) >= 60
            assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20, "an empty image"
        for image in (*figures[:-2], figures[-1]):  # all classes of the second bar chart may have accuracy 0
            assert (np.ptp(image.astype(int), axis=2) > 60).sum() > 100, "text only, nothing drawn"
        assert min(len(text) for text in texts) >= 7, "illegibly small text"
        assert heading[:2, -2:].mean() > 200 if scheme == "light" else heading[:2, -2:].mean() < 50
    finally:
        opened.page.close()


def test_curves_follow_the_colour_scheme(browser, single):
    strokes = []
    for scheme in ("light", "dark"):
        opened = open_page(browser, single / "index.html", scheme=scheme)
        paths = "[...document.querySelectorAll('figure > svg path')].map(path => getComputedStyle(path).stroke)"
        strokes.append({stroke for stroke in opened.page.evaluate(paths) if stroke != "none"})
        opened.page.close()
    assert "rgb(0, 103, 168)" in strokes[0] - strokes[1]
    assert "rgb(88, 180, 240)" in strokes[1] - strokes[0]
    assert not any(re.fullmatch(r"rgb\(1, 1, \d\)", stroke) for stroke in strokes[0] | strokes[1])


def test_headings_and_captions_use_the_terms_of_the_field(single):
    text = text_of(single / "index.html")
    sections = ["Training curves", "Accuracy per class", "Confusions", "Most confident errors", "Run history"]
    assert re.findall("<h2>(.*?)</h2>", text) == [*sections, "Configuration"]
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    for caption in (
        "Accuracy per class, %, best first",
        "Accuracy per class, % (continued)",
        "Loss (solid: validation, dashed: training)",
        "Top-1, % (solid: validation, dashed: training)",
        "Training throughput (images/s)",
        "Confusion matrix (row-normalised)",
    ):
        assert captions.count(caption) == 1, caption
    assert table(single / "index.html", "runs", heading=True)[0][3:5] == [
        "best validation top-1 (epoch)",
        "final validation top-1",
    ]
    assert table(single / "index.html", "confused", heading=True)[0] == ["count", "true class", "predicted class"]
    history = ["time (UTC)", "attempt", "event", "epoch", "step", "details"]
    assert table(single / "index.html", "events", heading=True)[0] == history


def test_accuracies_equal_those_in_the_runs_files(runs, single):
    (row,) = table(single / "index.html", "runs")
    expected, epochs = result(runs / "steep"), rows(runs / "steep", "epoch")
    best = max(epochs, key=lambda epoch: epoch["val_top1"])
    assert row[:5] == [
        "steep",
        "finished",
        "2/2",
        f"{best['val_top1']:.2%} ({best['epoch']})",
        f"{expected['top1']:.2%}",
    ]
    assert row[5:7] == [f"{expected['top5']:.2%}", f"{expected['calibration_error']:.2%}"]
    labels = re.findall(r">([a-z]+_[a-z]+)</text>", text_of(single / "index.html"))
    names = [name for name in labels if name in expected["class_accuracy"]]
    assert len(set(names)) == len(expected["class_accuracy"])
    accuracies = [expected["class_accuracy"][name] for name in names[:100]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_confusions_and_confident_errors_are_those_of_the_last_evaluation(runs, single):
    evaluation, expected = read_evaluation_file(runs / "steep" / "evaluation.npz"), result(runs / "steep")
    assert evaluation.confusion.sum() == expected["samples"]
    assert evaluation.confusion.diagonal().sum() == round(expected["top1"] * expected["samples"])
    names = evaluation.classes.tolist()
    for count, label, predicted in table(single / "index.html", "confused"):
        assert evaluation.confusion[names.index(label), names.index(predicted)] == int(count)
    assert len(evaluation.images) == 24
    assert (evaluation.labels != evaluation.predicted).all()
    assert (np.diff(evaluation.confidence) <= 0).all()
    text = text_of(single / "index.html")
    assert text.count("<img ") == 24
    assert f"<b>{names[evaluation.labels[0]]}</b> predicted as <b>{names[evaluation.predicted[0]]}</b>" in text


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
    for image, label in zip(evaluation.images, evaluation.labels, strict=True):
        name = evaluation.classes[label]
        expected = 200 * np.eye(3)[("red", "green", "blue").index(name)]
        assert np.abs(image - expected).max() <= 1, name


def test_seeds_are_combined_and_only_different_options_are_listed(runs, comparison):
    index = comparison / "index.html"
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


def test_the_run_history_is_in_order(single):
    events = [row[1:] for row in table(single / "index.html", "events")]
    assert [row[:2] for row in events] == [["1", "started"], ["1", "preempted"], ["2", "started"], ["2", "finished"]]
    steps = [int(row[3]) for row in events]
    assert steps[0] == 0 < steps[1] == steps[2] < steps[3] == 22
    assert "from step" in events[2][4]
    assert events[3][4] == "Finished after 2 epochs"


def test_figures_are_also_written_as_png_files(single):
    names = {path.name for path in single.glob("*.png")}
    assert names == CURVES | {"classes-1.png", "classes-2.png", "confusion.png", "confident_errors.png"}
    for name in names:
        colours = np.ptp(np.asarray(Image.open(single / name).convert("RGB")).astype(int), axis=2)
        assert (colours > 60).sum() > 100 or name == "classes-2.png", name


def test_the_confusion_matrix_of_cifar100_is_that_of_its_superclasses(runs, tmp_path):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    path = tmp_path / "run" / "evaluation.npz"
    arrays = dict(vars(read_evaluation_file(path)))
    arrays["classes"] = np.array(sorted(name for names in SUPERCLASSES.values() for name in names))
    np.savez(path, **arrays)
    assert report(tmp_path / "run").returncode == 0
    text = text_of(tmp_path / "run" / "report" / "index.html")
    assert "Superclass confusion matrix (row-normalised)" in text
    assert ">rows: true, columns: predicted</text>" in text
    for number, name in enumerate(SUPERCLASSES, 1):
        assert f">{name}  {number}</text>" in text


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
        assert table(index, "runs")[0][1] == status


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_only_runs_of_the_same_task_are_combined(runs, tmp_path):
    for name in ("same-2", "same-3", "same-4"):
        shutil.copytree(runs / "even-0", tmp_path / name)
    edit_json(tmp_path / "same-2" / "state.json", data="other images")
    done = report(runs / "even-0", *(tmp_path / name for name in ("same-2", "same-3", "same-4", "same-3/")))
    assert done.returncode == 0, done.stderr
    index = runs / "report" / "index.html"
    assert [row[0] for row in table(index, "runs")] == ["even-0", "same-2", "same-3", "same-4"], "no mean, no duplicate"
    shutil.rmtree(index.parent)


def test_the_result_of_an_earlier_epoch_is_ignored(runs, tmp_path):
    """A finished run that is continued for more epochs keeps its earlier result.json until it finishes again."""
    shutil.copytree(runs / "even-0", tmp_path / "longer")
    edit_json(tmp_path / "longer" / "result.json", epochs=1, top1=1.0)
    assert report(tmp_path / "longer").returncode == 0
    index = tmp_path / "longer" / "report" / "index.html"
    (row,) = table(index, "runs")
    assert row[4] == f"{rows(runs / 'even-0', 'epoch')[-1]['val_top1']:.2%}"
    assert "Available when a run has finished" in text_of(index)


def test_finished_and_unfinished_runs_can_be_compared(runs, tmp_path):
    shutil.copytree(runs / "steep", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    done = report(tmp_path / "unfinished", runs / "even-0", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = text_of(tmp_path / "out" / "index.html")
    assert "Available when" not in text
    assert text.count("<figcaption>Accuracy per class") == 2
    assert 'id="confusion"' in text
    assert "dots: the other configurations" not in text


def test_runs_of_the_same_name_are_called_by_their_directories(runs, tmp_path):
    for folder, source in (("one", "even-0"), ("two", "steep")):
        shutil.copytree(runs / source, tmp_path / folder / "run")
    assert report(tmp_path / "one" / "run", tmp_path / "two" / "run", "--out", tmp_path / "out").returncode == 0
    names = [row[0] for row in table(tmp_path / "out" / "index.html", "runs")]
    assert names == [str(tmp_path / "one" / "run"), str(tmp_path / "two" / "run")]


def test_a_report_removes_outdated_figures_and_never_writes_into_a_run(runs, tmp_path):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    assert report(tmp_path / "run").returncode == 0
    (tmp_path / "run" / "report" / "mine.png").write_bytes(b"")
    (tmp_path / "run" / "result.json").unlink()
    assert report(tmp_path / "run").returncode == 0
    assert {path.name for path in (tmp_path / "run" / "report").glob("*.png")} == CURVES | {"mine.png"}
    done = report(tmp_path / "run", "--out", runs / "steep")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{runs / 'steep'} is a run: choose another --out" in done.stderr


def test_more_configurations_than_colours_are_a_one_line_error(runs, tmp_path):
    for number in range(9):
        shutil.copytree(runs / "even-0", tmp_path / str(number))
        edit_json(tmp_path / str(number) / "state.json", data=str(number))
    done = report(*(tmp_path / str(number) for number in range(9)))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "9 configurations" in done.stderr


def test_class_names_may_contain_any_characters(tmp_path):
    names = ("<script>alert(1)</script>", "a & b", "$x_1$", "$\\frac$", "#010108", "many " * 30)
    folders = ("[bold]", "[red]", ":smile:", "three", "two", "zero")
    source = class_folders(tmp_path / "images", classes=folders, train=6, val=3)
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "shards").returncode == 0
    flags = ("--train.batch_size", "8", "--tracking.console_classes", "true")
    trained = run(trainer(tmp_path, tmp_path / "shards", *flags))
    assert trained.returncode == 0, trained.stderr
    assert all(f"{name} " in trained.stdout for name in folders)
    path = tmp_path / "tiny" / "evaluation.npz"
    np.savez(path, **{**vars(read_evaluation_file(path)), "classes": np.array(names)})
    accuracies = result(tmp_path / "tiny")["class_accuracy"].values()
    edit_json(tmp_path / "tiny" / "result.json", class_accuracy=dict(zip(names, accuracies, strict=True)))
    done = report(tmp_path / "tiny")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "tiny" / "report" / "index.html").read_text()
    assert "<script>" not in text
    assert all(f">{name if len(name) < 30 else name[:29] + '…'}</text>" in html.unescape(text) for name in names)
    assert done.stderr == "", "no warnings about collapsed axes or missing glyphs"


def test_the_run_writes_its_report_when_it_finishes(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--tracking.report", "true", processes=2))
    assert done.returncode == 0, done.stderr
    index = tmp_path / "tiny" / "report" / "index.html"
    assert done.stdout.count(f"report: {index}") == 1
    assert table(index, "runs")[0][:3] == ["tiny", "finished", "2/2"]


def test_a_report_that_cannot_be_written_does_not_fail_the_run(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "report").write_text("in the way")
    done = run(trainer(tmp_path, shards, "--tracking.report", "true"))
    assert done.returncode == 0, done.stderr
    assert "the report could not be written (FileExistsError" in done.stdout


def test_a_directory_without_a_run_is_a_one_line_error(runs, tmp_path):
    for directory in (tmp_path / "nowhere", tmp_path):
        assert f"{directory} is not a run" in one_line_error(runs / "even-1", directory, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def one_line_error(*arguments):
    done = report(*arguments)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.stderr
    return done.stderr


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


EPOCH = {"kind": "epoch", "epoch": 1, "train_loss": 1.0, "train_top1": 0.1, "val_loss": 1.0, "val_top1": 0.1}
EPOCH |= {"val_top5": 0.5, "seconds": 1.0, "images_per_second": 1.0}
EVENT = {"time": "2026-01-01T00:00:00+00:00", "kind": "started", "attempt": 1, "epoch": 0, "step": 0, "detail": ""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b"[]"),
        ("evaluation.npz", b"PK\x03\x04 truncated"),
        ("evaluation.npz", npz(classes=0, confusion=0, confidence=0, labels=0, predicted=0, images=0)),
        ("evaluation.npz", npz(classes=np.array(["a"]))),
        ("config.yaml", b"a: ["),
        ("config.yaml", b""),
        ("result.json", b"{"),
        ("result.json", b"[]"),
        ("result.json", b'{"top1": 0.5, "class_accuracy": {}}'),
        ("events.jsonl", b"{"),
        ("events.jsonl", b"{}\n"),
        ("events.jsonl", json.dumps({**EVENT, "time": "yesterday"}).encode()),
        ("metrics.jsonl", b'{"kind": "epoch", "epoch": 1}\n'),
        ("metrics.jsonl", b"{\n{}\n"),
        ("metrics.jsonl", json.dumps({**EPOCH, "val_top1": None}).encode() + b"\n"),
        ("metrics.jsonl", json.dumps({**EPOCH, "of another version": "0.5"}).encode() + b"\n"),
        ("metrics.jsonl", b'{"kind": "step", "step": "3", "loss": 1.0, "lr": 0.1}\n'),
    ],
)
def test_a_damaged_file_is_a_one_line_error(runs, tmp_path, name, content):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    error = one_line_error(tmp_path / "run")
    assert str(tmp_path / "run") in error
    assert name in error


def test_runs_without_a_column_are_omitted_from_its_curve():
    older, newer = ([{"epoch": 1, "val_loss": loss}, {"epoch": 2, "val_loss": loss}] for loss in (1.0, 2.0))
    newer[1]["val_new"] = 0.5
    series = series_by_epoch([SimpleNamespace(epochs=older), SimpleNamespace(epochs=newer)], "val_new")
    assert (series.x.tolist(), series.mean.tolist()) == ([2], [0.5])


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 9), st.floats(-1e3, 1e3)), min_size=1, max_size=4))
def test_means_are_over_the_runs_that_have_a_value(columns):
    series = mean_over_runs(columns)
    assert series.x.tolist() == sorted({x for column in columns for x in column})
    for x, mean, std in zip(series.x, series.mean, series.std, strict=True):
        values = [column[x] for column in columns if x in column]
        assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert std == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0, abs=1e-6)


def test_a_column_without_values_has_no_curve_and_one_of_zeros_is_visible():
    runs = [SimpleNamespace(epochs=[{"epoch": epoch, "none": None, "zero": 0.0} for epoch in (1, 2, 3)])]
    groups = [SimpleNamespace(runs=runs, label="run")]
    curves = {name: Curve(name, name, "epoch", (Column(name),), from_zero=True) for name in ("other", "none", "zero")}
    assert [name for name, curve in curves.items() if curve.figure(groups) is not None] == ["zero"]
    pixels = np.asarray(Image.open(io.BytesIO(curves["zero"].figure(groups).png())).convert("RGB")).astype(int)
    colour = [int(PNG_PALETTE.groups[0][start : start + 2], 16) for start in (1, 3, 5)]
    assert (np.abs(pixels - colour).max(2) < 8).sum() > 1000, "a line over the full width"
