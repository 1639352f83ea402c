"""python -m regnet.report: looked at in a real browser, and by its words."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from images import class_folders
from nursery import ForkedCommand
from PIL import Image
from programs import kill_group, result, rows, run, start, trainer, wait_until
from test_convert import convert

from data.sources.cifar100_superclasses import SUPERCLASSES
from regnet.metrics.evaluation_file import read_evaluation_file
from regnet.report.curves import Curve
from regnet.report.figure import PRINT
from regnet.report.seeds import by_epoch, over_runs

pytestmark = pytest.mark.xdist_group("report")  # which trains its runs once

CURVES = {"loss.png", "accuracy.png", "steps.png", "learning_rate.png", "speed.png", "time.png"}


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Two seeds of one configuration, a third run with another learning rate, which was preempted and went on."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *flags in (("even-0", "--seed", "0"), ("even-1", "--seed", "1"), ("steep", "--optim.lr", "0.02")):
        command = trainer(folder, shards, "--name", name, "--optim.lr", "0.01", *flags)
        if name == "steep":
            left = run(trainer(folder, shards, "--name", name, *flags, "--train.max_minutes", "0.0001"))
            assert left.returncode == 75, left.stderr
        assert run(command).returncode == 0
    return folder


def report(*arguments):
    return run(ForkedCommand(["-m", "regnet.report", *map(str, arguments)]))


@pytest.fixture(scope="module")
def alone(runs):
    done = report(runs / "steep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(runs / "steep" / "report" / "index.html")
    return runs / "steep" / "report"


@pytest.fixture(scope="module")
def together(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    done = report(runs / "even-0", runs / "even-1", runs / "steep", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def table(page, name):
    """The cells of a table of the page, without its heading."""
    text = page.read_text() if hasattr(page, "read_text") else page
    (found,) = re.findall(rf'<table id="{name}">(.*?)</table>', text, re.DOTALL)
    lines = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)[1:]
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL)] for line in lines]


@pytest.mark.parametrize(
    ("which", "width", "scheme"), [("alone", 1280, "light"), ("together", 1280, "dark"), ("together", 360, "light")]
)
def test_a_browser_shows_it_without_errors_requests_or_empty_pictures(browser, request, which, width, scheme):
    page = request.getfixturevalue(which) / "index.html"
    seen = open_page(browser, page, width, scheme)
    try:
        assert seen.console == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [page.as_uri()]
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        pictures, mistakes, (heading,), words = seen.pixels("figure > svg", ".mistakes img", "h1", "figure > svg text")
        assert (len(pictures), len(mistakes)) == (len(CURVES) + 2 + 1, 24)
        for picture in (*pictures, *mistakes):
            assert min(picture.shape[:2]) >= 60
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20, "an empty picture"
        for picture in (*pictures[:-2], pictures[-1]):  # the second half of the classes may be at nought
            assert (np.ptp(picture.astype(int), axis=2) > 60).sum() > 100, "words alone, and nothing drawn"
        assert min(len(word) for word in words) >= 7, "words too small to be read"
        assert heading[:2, -2:].mean() > 200 if scheme == "light" else heading[:2, -2:].mean() < 50
    finally:
        seen.page.close()


def test_curves_change_their_colours_with_the_page(browser, alone):
    shades = []
    for scheme in ("light", "dark"):
        seen = open_page(browser, alone / "index.html", scheme=scheme)
        paths = "[...document.querySelectorAll('figure > svg path')].map(path => getComputedStyle(path).stroke)"
        shades.append({stroke for stroke in seen.page.evaluate(paths) if stroke != "none"})
        seen.page.close()
    assert "rgb(0, 103, 168)" in shades[0] - shades[1]
    assert "rgb(88, 180, 240)" in shades[1] - shades[0]
    assert not any(re.fullmatch(r"rgb\(1, 1, \d\)", stroke) for stroke in shades[0] | shades[1])


def test_it_tells_what_the_runs_files_tell(runs, alone):
    (row,) = table(alone / "index.html", "runs")
    told, epochs = result(runs / "steep"), rows(runs / "steep", "epoch")
    best = max(epochs, key=lambda epoch: epoch["val_top1"])
    assert row[:5] == [
        "steep",
        "finished",
        "2/2",
        f"{best['val_top1']:.2%} ({best['epoch']})",
        f"{told['top1']:.2%}",
    ]
    assert row[5:7] == [f"{told['top5']:.2%}", f"{told['calibration_error']:.2%}"]
    text = html.unescape((alone / "index.html").read_text())
    names = [name for name in re.findall(r">([a-z]+_[a-z]+)</text>", text) if name in told["class_accuracy"]]
    assert len(set(names)) == len(told["class_accuracy"])
    accuracies = [told["class_accuracy"][name] for name in names[:100]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_confusions_and_mistakes_are_those_of_the_last_evaluation(runs, alone):
    outcome, told = read_evaluation_file(runs / "steep" / "evaluation.npz"), result(runs / "steep")
    assert outcome.confusion.sum() == told["samples"]
    assert outcome.confusion.diagonal().sum() == round(told["top1"] * told["samples"])
    names = outcome.classes.tolist()
    for times, label, predicted in table(alone / "index.html", "confused"):
        assert outcome.confusion[names.index(label), names.index(predicted)] == int(times)
    assert len(outcome.images) == 24
    assert (outcome.labels != outcome.predicted).all()
    assert (np.diff(outcome.confidence) <= 0).all()
    text = (alone / "index.html").read_text()
    assert text.count("<img ") == 24
    assert f"<b>{names[outcome.labels[0]]}</b> predicted as <b>{names[outcome.predicted[0]]}</b>" in text


def test_mistakes_keep_their_images(tmp_path):
    """Each class is of one colour, and so must be the image that a mistake is shown with."""
    source = class_folders(tmp_path / "images", classes=("red", "green", "blue"), train=10, val=9)
    for channel, name in enumerate(("red", "green", "blue")):
        for path in source.rglob(f"{name}/*.png"):
            Image.fromarray(np.eye(3, dtype=np.uint8)[None, None, channel].repeat(32, 0).repeat(32, 1) * 200).save(path)
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "shards").returncode == 0
    still = ("--optim.lr", "1e-6", "--schedule.start_lr", "1e-6", "--schedule.min_lr", "0", "--train.batch_size", "10")
    done = run(trainer(tmp_path, tmp_path / "shards", *still, processes=2))
    assert done.returncode == 0, done.stderr
    outcome = read_evaluation_file(tmp_path / "tiny" / "evaluation.npz")
    assert 0 < len(outcome.images) == outcome.confusion.sum() - outcome.confusion.trace() < 24, "of both ranks"
    for image, label in zip(outcome.images, outcome.labels, strict=True):
        name = outcome.classes[label]
        expected = 200 * np.eye(3)[("red", "green", "blue").index(name)]
        assert np.abs(image - expected).max() <= 1, name


def test_seeds_are_one_curve_and_only_what_differs_is_listed(runs, together):
    page = together / "index.html"
    found = {row[0]: row for row in table(page, "runs")}
    assert list(found) == ["even-0", "even-1", "steep", "even (2 seeds)"]
    bests = [100 * max(epoch["val_top1"] for epoch in rows(runs / name, "epoch")) for name in ("even-0", "even-1")]
    assert found["even (2 seeds)"][3] == f"{statistics.mean(bests):.2f} ± {statistics.stdev(bests):.2f} %"
    options = {row[0]: row[1:] for row in table(page, "differences")}
    assert options == {
        "name": ["even-0", "even-1", "steep"],
        "seed": ["0", "1", "3"],
        "optim.lr": ["0.01", "0.01", "0.02"],
    }


def test_what_happened_is_told_in_order(runs, alone):
    events = [row[1:] for row in table(alone / "index.html", "events")]
    assert [row[:2] for row in events] == [["1", "began"], ["1", "preempted"], ["2", "began"], ["2", "finished"]]
    steps = [int(row[3]) for row in events]
    assert steps[0] == 0 < steps[1] == steps[2] < steps[3] == 22
    assert "from step" in events[2][4]
    assert events[3][4] == "2 epochs done"


def test_the_pictures_are_files_as_well(alone):
    names = {path.name for path in alone.glob("*.png")}
    assert names == CURVES | {"classes-1.png", "classes-2.png", "confusion.png", "mistakes.png"}
    for name in names:
        colours = np.ptp(np.asarray(Image.open(alone / name).convert("RGB")).astype(int), axis=2)
        assert (colours > 60).sum() > 100 or name == "classes-2.png", name


def test_superclasses_of_cifar100_are_what_is_confused(runs, tmp_path):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    path = tmp_path / "run" / "evaluation.npz"
    arrays = dict(vars(read_evaluation_file(path)))
    arrays["classes"] = np.array(sorted(name for names in SUPERCLASSES.values() for name in names))
    np.savez(path, **arrays)
    assert report(tmp_path / "run").returncode == 0
    text = html.unescape((tmp_path / "run" / "report" / "index.html").read_text())
    assert "What each superclass was predicted as" in text
    for number, name in enumerate(SUPERCLASSES, 1):
        assert f">{name}  {number}</text>" in text


def test_it_can_be_read_while_the_run_trains(shards, tmp_path):
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
    of_steps = {"steps.png", "learning_rate.png"}  # the others need an epoch
    for made, place, standing, least in (
        (early, "early", "running", of_steps),
        (late, "late", "running", CURVES),
        (torn, "torn", "died", CURVES),
    ):
        assert made.returncode == 0, made.stderr
        text = (tmp_path / place / "index.html").read_text()
        assert ("Still training" in text) is (standing == "running")
        assert "Are counted at the end of a run" in text
        assert least <= {path.name for path in (tmp_path / place).glob("*.png")} <= CURVES
        assert table(text, "runs")[0][1] == standing


def changed(run_directory, name, change):
    """A file of a run, after `change` was made to what it says."""
    path = run_directory / name
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    return run_directory


def test_only_runs_on_the_same_task_are_seeds_of_one_another(runs, tmp_path):
    for name in ("same-2", "same-3", "same-4"):
        shutil.copytree(runs / "even-0", tmp_path / name)
    changed(tmp_path / "same-2", "state.json", lambda told: told.update(data="others"))
    done = report(runs / "even-0", *(tmp_path / name for name in ("same-2", "same-3", "same-4", "same-3/")))
    assert done.returncode == 0, done.stderr
    page = runs / "report" / "index.html"
    assert [row[0] for row in table(page, "runs")] == ["even-0", "same-2", "same-3", "same-4"], "no mean, nothing twice"
    shutil.rmtree(page.parent)


def test_an_earlier_end_is_not_taken_for_the_last(runs, tmp_path):
    shutil.copytree(runs / "even-0", tmp_path / "longer")
    changed(tmp_path / "longer", "result.json", lambda told: told.update(epochs=1, top1=1.0))
    assert report(tmp_path / "longer").returncode == 0
    text = (tmp_path / "longer" / "report" / "index.html").read_text()
    (row,) = table(text, "runs")
    assert row[4] == f"{rows(runs / 'even-0', 'epoch')[-1]['val_top1']:.2%}"
    assert "Are counted at the end of a run" in text


def test_runs_that_are_done_are_shown_beside_one_that_is_not(runs, tmp_path):
    shutil.copytree(runs / "steep", tmp_path / "begun")
    (tmp_path / "begun" / "result.json").unlink()
    done = report(tmp_path / "begun", runs / "even-0", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Are counted" not in text
    assert text.count("<figcaption>Accuracy of each class") == 2
    assert 'id="confusion"' in text
    assert "dots the others" not in text, "there are none"


def test_runs_of_one_name_are_told_by_their_directories(runs, tmp_path):
    for place, source in (("one", "even-0"), ("two", "steep")):
        shutil.copytree(runs / source, tmp_path / place / "run")
    assert report(tmp_path / "one" / "run", tmp_path / "two" / "run", "--out", tmp_path / "out").returncode == 0
    names = [row[0] for row in table(tmp_path / "out" / "index.html", "runs")]
    assert names == [str(tmp_path / "one" / "run"), str(tmp_path / "two" / "run")]


def test_a_page_leaves_no_pictures_of_the_one_before_and_spares_runs(runs, tmp_path):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    assert report(tmp_path / "run").returncode == 0
    (tmp_path / "run" / "report" / "mine.png").write_bytes(b"")
    (tmp_path / "run" / "result.json").unlink()
    assert report(tmp_path / "run").returncode == 0
    assert {path.name for path in (tmp_path / "run" / "report").glob("*.png")} == CURVES | {"mine.png"}
    done = report(tmp_path / "run", "--out", runs / "steep")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "holds a run" in done.stderr


def test_more_configurations_than_colours_are_refused(runs, tmp_path):
    for number in range(9):
        shutil.copytree(runs / "even-0", tmp_path / str(number))
        changed(tmp_path / str(number), "state.json", lambda told, number=number: told.update(data=str(number)))
    done = report(*(tmp_path / str(number) for number in range(9)))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "9 configurations" in done.stderr


def test_classes_may_be_called_anything(tmp_path):
    names = ("<script>alert(1)</script>", "a & b", "$x_1$", "$\\frac$", "#010108", "many " * 30)
    folders = ("[bold]", "[red]", ":smile:", "three", "two", "zero")
    source = class_folders(tmp_path / "images", classes=folders, train=6, val=3)
    assert convert("--source", "folder", "--root", source, "--out", tmp_path / "shards").returncode == 0
    trained = run(trainer(tmp_path, tmp_path / "shards", "--train.batch_size", "8"))
    assert trained.returncode == 0, trained.stderr
    assert all(f"{name} " in trained.stdout for name in folders)
    path = tmp_path / "tiny" / "evaluation.npz"
    np.savez(path, **{**vars(read_evaluation_file(path)), "classes": np.array(names)})
    told = result(tmp_path / "tiny")
    told["class_accuracy"] = dict(zip(names, told["class_accuracy"].values(), strict=True))
    (tmp_path / "tiny" / "result.json").write_text(json.dumps(told))
    done = report(tmp_path / "tiny")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "tiny" / "report" / "index.html").read_text()
    assert "<script>" not in text
    assert all(f">{name if len(name) < 30 else name[:29] + '…'}</text>" in html.unescape(text) for name in names)
    assert done.stderr == "", "collapsed axes, missing letters"


def test_the_run_makes_it_when_it_is_done(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--tracking.report", "true", processes=2))
    assert done.returncode == 0, done.stderr
    page = tmp_path / "tiny" / "report" / "index.html"
    assert done.stdout.count(f"the run as a page: {page}") == 1
    assert table(page, "runs")[0][:3] == ["tiny", "finished", "2/2"]


def test_a_report_that_cannot_be_made_does_not_fail_the_run(shards, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "report").write_text("in the way")
    done = run(trainer(tmp_path, shards, "--tracking.report", "true"))
    assert done.returncode == 0, done.stderr
    assert "no page was made (FileExistsError" in done.stdout


def test_what_is_no_run_is_told_in_one_line(runs, tmp_path):
    for directory in (tmp_path / "nowhere", tmp_path):
        refused(runs / "even-1", directory, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def refused(*arguments):
    done = report(*arguments)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.stderr
    return done.stderr


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


EPOCH = {"kind": "epoch", "epoch": 1, "train_loss": 1.0, "train_top1": 0.1, "val_loss": 1.0, "val_top1": 0.1}
EPOCH |= {"val_top5": 0.5, "seconds": 1.0, "images_per_second": 1.0}
EVENT = {"at": "2026-01-01T00:00:00+00:00", "what": "began", "attempt": 1, "epoch": 0, "step": 0, "detail": ""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b"[]"),
        ("evaluation.npz", b"PK\x03\x04 cut"),
        ("evaluation.npz", npz(classes=0, confusion=0, confidence=0, labels=0, predicted=0, images=0)),
        ("evaluation.npz", npz(classes=np.array(["a"]))),
        ("config.yaml", b"a: ["),
        ("config.yaml", b""),
        ("result.json", b"{"),
        ("result.json", b"[]"),
        ("result.json", b'{"top1": 0.5, "class_accuracy": {}}'),
        ("events.jsonl", b"{"),
        ("events.jsonl", b"{}\n"),
        ("events.jsonl", json.dumps({**EVENT, "at": "yesterday"}).encode()),
        ("metrics.jsonl", b'{"kind": "epoch", "epoch": 1}\n'),
        ("metrics.jsonl", b"{\n{}\n"),
        ("metrics.jsonl", json.dumps({**EPOCH, "val_top1": None}).encode() + b"\n"),
        ("metrics.jsonl", json.dumps({**EPOCH, "of another version": "0.5"}).encode() + b"\n"),
        ("metrics.jsonl", b'{"kind": "step", "step": "3", "loss": 1.0, "lr": 0.1}\n'),
    ],
)
def test_a_file_that_is_damaged_or_of_another_version_is_told_in_one_line(runs, tmp_path, name, content):
    shutil.copytree(runs / "even-0", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    told = refused(tmp_path / "run")
    assert str(tmp_path / "run") in told
    assert name in told


def test_runs_from_before_there_was_a_column_are_left_out_of_its_curve():
    older, newer = ([{"epoch": 1, "val_loss": loss}, {"epoch": 2, "val_loss": loss}] for loss in (1.0, 2.0))
    newer[1]["val_new"] = 0.5
    series = by_epoch([SimpleNamespace(epochs=older), SimpleNamespace(epochs=newer)], "val_new")
    assert (series.x.tolist(), series.mean.tolist()) == ([2], [0.5])


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 9), st.floats(-1e3, 1e3)), min_size=1, max_size=4))
def test_a_mean_is_over_the_runs_that_got_so_far(columns):
    series = over_runs(columns)
    assert series.x.tolist() == sorted({x for column in columns for x in column})
    for x, mean, deviation in zip(series.x, series.mean, series.deviation, strict=True):
        values = [column[x] for column in columns if x in column]
        assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert deviation == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0, abs=1e-6)


def test_a_column_that_no_run_has_is_no_curve_and_one_of_noughts_can_be_seen():
    runs = [SimpleNamespace(epochs=[{"epoch": epoch, "none": None, "nought": 0.0} for epoch in (1, 2, 3)])]
    groups = [SimpleNamespace(runs=runs, label="run")]
    curves = {key: Curve(key, key, "epoch", ((key, "-", 1),), from_zero=True) for key in ("other", "none", "nought")}
    assert [key for key, curve in curves.items() if curve.picture(groups) is not None] == ["nought"]
    drawn = np.asarray(Image.open(io.BytesIO(curves["nought"].picture(groups).png())).convert("RGB")).astype(int)
    colour = [int(PRINT.groups[0][place : place + 2], 16) for place in (1, 3, 5)]
    assert (np.abs(drawn - colour).max(2) < 8).sum() > 1000, "a line over the whole width"
