"""python -m regnet.evaluate, and what can be told from what it counts."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images import class_folders
from nursery import ForkedCommand
from programs import result, run, trainer
from rich.console import Console
from test_convert import convert
from torch.nn import functional as F

from data.loader import Place, open_loaders
from data.manifest import read_manifest
from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.checkpoint.load_model import load_trained_model
from regnet.data_adapter import loader_options
from regnet.distributed.world import World
from regnet.evaluate import as_told, show
from regnet.metrics.evaluation import BINS, Evaluation, EvaluationAccumulator
from regnet.metrics.evaluation_file import most_confused

ALONE = World(0, 1, 0, torch.device("cpu"), None, None)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(trainer(folder, shards, "--optim.lr", "0.01")).returncode == 0
    return folder / "tiny"


def evaluate(path, *flags, processes=0):
    command = ["-m", "regnet.evaluate", "--checkpoint", str(path), "--device", "cpu", *map(str, flags)]
    return run(ForkedCommand(command, processes))


def test_it_finds_what_the_run_found_whatever_the_number_of_processes(trained, shards, tmp_path):
    told = {}
    for processes in (0, 2, 3):
        file = tmp_path / f"{processes}.json"
        path = trained / "checkpoints" / "step-000000022.pt"
        done = evaluate(path, "--shards", shards, "--json", file, processes=processes)
        assert done.returncode == 0, done.stderr
        told[processes] = json.loads(file.read_text())
    alone, expected = told[0], result(trained)
    assert (alone["samples"], alone["epochs"]) == (200, 2)
    assert (alone["top1"], alone["top5"]) == (expected["top1"], expected["top5"])
    assert alone["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert alone["class_accuracy"] == expected["class_accuracy"]
    assert sum(map(sum, alone["confusion"])) == 200
    for processes in (2, 3):
        for counted in ("top1", "top5", "confusion", "class_accuracy", "most_confused"):
            assert told[processes][counted] == alone[counted]
        for summed in ("loss", "calibration_error"):
            assert told[processes][summed] == pytest.approx(alone[summed], rel=1e-6)


def test_mirror_images_are_averaged_before_they_are_judged(trained, shards, tmp_path):
    path, file = trained / "checkpoints" / "best.pt", tmp_path / "told.json"
    assert evaluate(path, "--json", file).returncode == 0
    opened, manifest = load_trained_model(path), read_manifest(shards)
    _, batches = open_loaders(shards, manifest, loader_options(opened.config), Place(0, 1, torch.device("cpu")))
    with torch.inference_mode():
        seen = [
            ((opened.model(batch.images) + opened.model(batch.images.flip(3))) / 2, batch.labels) for batch in batches
        ]
    logits, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    found = json.loads(file.read_text())["with_mirror_images"]
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_it_is_readable_and_talks_once(trained, shards):
    done = evaluate(trained / "checkpoints" / "best.pt", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 2, "with and without mirror images, from rank zero alone"
    assert "calibration error" in done.stdout
    assert "most often confused:" in done.stdout
    assert "superclass" not in done.stdout, "these are not CIFAR-100's classes"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_other_classes_and_other_files_are_refused_in_one_line(trained, tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    assert convert("--source", "folder", "--root", source, "--out", out, "--shards", 1).returncode == 0
    path = trained / "checkpoints" / "best.pt"
    for file, flags, words in (
        (path, ("--shards", out), "trained on other classes"),
        (path, ("--shards", tmp_path / "none"), "no manifest.json"),
        (path, ("--json", tmp_path / "none" / "told.json"), "no such directory"),
        (tmp_path / "none.pt", (), "none.pt"),
        (trained / "config.yaml", (), "not a checkpoint"),
    ):
        done = evaluate(file, *flags)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr


def cases(classes=6):
    seeds = st.integers(0, 2**31)
    return st.tuples(seeds, st.integers(1, 60), st.just(classes))


@given(cases())
@settings(deadline=None, max_examples=60)
def test_what_is_told_is_what_the_logits_say(case):
    seed, samples, classes = case
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    tally = EvaluationAccumulator(classes, torch.device("cpu"))
    for part in range(0, samples, 7):
        tally.update(logits[part : part + 7], labels[part : part + 7])
    found = tally.result(ALONE)
    taken = logits.argmax(1)
    assert found.samples == samples
    assert found.top1 == (taken == labels).sum().item() / samples
    assert found.loss == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5)
    for label in range(classes):
        for guess in range(classes):
            assert found.confusion[label, guess] == ((labels == label) & (taken == guess)).sum()
    confidence, right = logits.softmax(1).max(1).values.double(), (taken == labels).double()
    error = 0.0
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS)
        if inside.any():
            error += inside.sum().item() / samples * abs(confidence[inside].mean() - right[inside].mean()).item()
    assert found.calibration_error == pytest.approx(error, abs=1e-9)
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    for group, accuracy in enumerate(found.group_accuracy(groups)):
        inside = groups[labels] == group
        if inside.any():
            assert accuracy == pytest.approx((groups[taken[inside]] == group).float().mean().item())
    pairs = most_confused(found.confusion.numpy(), 3)
    assert [times for *_, times in pairs] == sorted((times for *_, times in pairs), reverse=True)
    assert all(label != guess and found.confusion[label, guess] == times for label, guess, times in pairs)


def test_superclasses_are_told_where_the_classes_are_cifar100s(capsys):
    names = tuple(sorted(name for group in SUPERCLASSES.values() for name in group))
    apple, pear = names.index("apple"), names.index("pear")
    confusion = torch.eye(100, dtype=torch.int64) * 2
    confusion[apple, apple], confusion[apple, pear] = 0, 2
    confusion[pear, pear], confusion[pear, 0 if pear else 1] = 0, 2
    found = Evaluation(200, 1.0, 0.98, 1.0, 0.0, confusion)
    told = as_told(SimpleNamespace(classes=names, epochs=1), found, found)
    assert list(told["superclass_accuracy"]) == list(SUPERCLASSES)
    assert told["superclass_accuracy"]["fruit and vegetables"] == 1.0, "apple and pear are of one"
    assert told["class_accuracy"]["apple"] == 0.0
    show(told, Console(width=80))
    shown = capsys.readouterr().out
    assert "by superclass, best first:" in shown
    assert "fruit and vegetables 100.0%" in shown


def test_every_class_of_cifar100_has_one_superclass():
    names = tuple(name for group in SUPERCLASSES.values() for name in group)
    assert (len(SUPERCLASSES), len(set(names))) == (20, 100)
    assert superclass_of(tuple(sorted(names)))[0] == list(SUPERCLASSES).index("fruit and vegetables"), "apple"
    assert superclass_of(("red_disc", "blue_star")) is None
