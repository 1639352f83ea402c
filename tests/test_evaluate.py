"""python -m regnet.evaluate, and the metrics that it computes."""

import json
from types import SimpleNamespace

import pytest
import torch
from converting import convert
from fork_server import ForkedCommand
from hypothesis import example, given
from hypothesis import strategies as st
from images import class_folders
from processes import run, trainer
from rich.console import Console
from run_directory import result
from thoroughness import examples
from torch.nn import functional as F

from data.loader import RankInfo
from data.manifest import read_manifest
from data.open_loaders import open_loaders
from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.checkpoint.load_model import load_trained_model
from regnet.data_adapter import loader_options
from regnet.distributed.world import World
from regnet.evaluate import print_evaluation, to_dict
from regnet.metrics.evaluation import BINS, Evaluation, EvaluationAccumulator
from regnet.metrics.evaluation_file import most_confused

SINGLE_PROCESS = World(0, 1, 0, torch.device("cpu"), None, None)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(trainer(folder, shards, "--optim.lr", "0.01")).returncode == 0
    return folder / "tiny"


def evaluate(path, *flags, processes=0):
    command = ["-m", "regnet.evaluate", "--checkpoint", str(path), "--device", "cpu", *map(str, flags)]
    return run(ForkedCommand(command, processes))


def test_results_equal_those_of_the_run_for_any_number_of_processes(trained, shards, tmp_path):
    found = {}
    for processes in (0, 2, 3):
        file = tmp_path / f"{processes}.json"
        path = trained / "checkpoints" / "step-000000022.pt"
        done = evaluate(path, "--shards", shards, "--json", file, processes=processes)
        assert done.returncode == 0, done.stderr
        found[processes] = json.loads(file.read_text())
    single, expected = found[0], result(trained)
    assert (single["samples"], single["epochs"]) == (200, 2)
    assert (single["top1"], single["top5"]) == (expected["top1"], expected["top5"])
    assert single["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert single["class_accuracy"] == expected["class_accuracy"]
    assert sum(map(sum, single["confusion"])) == 200
    for processes in (2, 3):
        for counted in ("top1", "top5", "confusion", "class_accuracy", "most_confused"):
            assert found[processes][counted] == single[counted]
        for summed in ("loss", "calibration_error"):
            assert found[processes][summed] == pytest.approx(single[summed], rel=1e-6)


def test_flip_tta_averages_the_logits(trained, shards, tmp_path):
    path, file = trained / "checkpoints" / "best.pt", tmp_path / "evaluation.json"
    assert evaluate(path, "--json", file).returncode == 0
    loaded, manifest = load_trained_model(path), read_manifest(shards)
    model = loaded.model
    _, batches = open_loaders(shards, manifest, loader_options(loaded.config), RankInfo(0, 1, torch.device("cpu")))
    with torch.inference_mode():
        outputs = [((model(batch.images) + model(batch.images.flip(3))) / 2, batch.labels) for batch in batches]
    logits, labels = (torch.cat(tensors) for tensors in zip(*outputs, strict=True))
    found = json.loads(file.read_text())["flip_tta"]
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_only_rank_zero_prints_a_readable_summary(trained, shards):
    done = evaluate(trained / "checkpoints" / "best.pt", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 validation images, weights after ")
    assert done.stdout.count("top-1") == 2, "without and with flip TTA, on rank zero only"
    assert "calibration error (ECE)" in done.stdout
    assert "most frequent confusions:" in done.stdout
    assert "superclass" not in done.stdout, "these are not the classes of CIFAR-100"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_other_classes_and_unusable_files_are_one_line_errors(trained, tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    assert convert("--source", "folder", "--root", source, "--out", out, "--shards", 1).returncode == 0
    path = trained / "checkpoints" / "best.pt"
    for file, flags, words in (
        (path, ("--shards", out), "its classes differ from those that the checkpoint was trained on; use --shards"),
        (path, ("--shards", tmp_path / "none"), "no manifest.json"),
        (path, ("--json", tmp_path / "none" / "evaluation.json"), f"{tmp_path / 'none'} is not a directory"),
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
@example((2731734, 1, 6))  # a loss of 0.0077, the difference of float32 numbers of about 6
@examples(60)
def test_metrics_follow_their_definitions(case):
    seed, samples, classes = case
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    accumulator = EvaluationAccumulator(classes, torch.device("cpu"))
    for start in range(0, samples, 7):
        accumulator.update(logits[start : start + 7], labels[start : start + 7])
    found = accumulator.result(SINGLE_PROCESS)
    predicted = logits.argmax(1)
    assert found.samples == samples
    assert found.top1 == (predicted == labels).sum().item() / samples
    rounding = 4 * torch.finfo(torch.float32).eps * logits.abs().max().item()
    assert found.loss == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5, abs=rounding)
    for label in range(classes):
        for prediction in range(classes):
            expected = ((labels == label) & (predicted == prediction)).sum()
            assert found.confusion[label, prediction] == expected
    confidence, correct = logits.softmax(1).max(1).values.double(), (predicted == labels).double()
    error = 0.0
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS)
        if inside.any():
            error += inside.sum().item() / samples * abs(confidence[inside].mean() - correct[inside].mean()).item()
    assert found.calibration_error == pytest.approx(error, abs=1e-9)
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    for group, accuracy in enumerate(found.group_accuracy(groups)):
        inside = groups[labels] == group
        if inside.any():
            assert accuracy == pytest.approx((groups[predicted[inside]] == group).float().mean().item())
    pairs = most_confused(found.confusion.numpy(), 3)
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    for label, prediction, count in pairs:
        assert label != prediction
        assert found.confusion[label, prediction] == count


def test_superclass_accuracy_is_reported_for_the_classes_of_cifar100(capsys):
    names = tuple(sorted(name for group in SUPERCLASSES.values() for name in group))
    apple, pear = names.index("apple"), names.index("pear")
    confusion = torch.eye(100, dtype=torch.int64) * 2
    confusion[apple, apple], confusion[apple, pear] = 0, 2
    confusion[pear, pear], confusion[pear, 0 if pear else 1] = 0, 2
    evaluation = Evaluation(200, 1.0, 0.98, 1.0, 0.0, confusion)
    found = to_dict(SimpleNamespace(classes=names, epochs=1), evaluation, evaluation)
    assert list(found["superclass_accuracy"]) == list(SUPERCLASSES)
    assert found["superclass_accuracy"]["fruit and vegetables"] == 1.0, "apple and pear share a superclass"
    assert found["class_accuracy"]["apple"] == 0.0
    assert {"label": "apple", "predicted": "pear", "count": 2} in found["most_confused"]
    print_evaluation(found, Console(width=80))
    printed = capsys.readouterr().out
    assert "accuracy per superclass, best first:" in printed
    assert "fruit and vegetables 100.0%" in printed
    assert "   2 x apple predicted as pear" in printed


def test_without_errors_no_confusions_are_printed(capsys):
    evaluation = Evaluation(6, 1.0, 1.0, 0.0, 0.0, 2 * torch.eye(3, dtype=torch.int64))
    found = to_dict(SimpleNamespace(classes=("ant", "bee", "cat"), epochs=1), evaluation, evaluation)
    print_evaluation(found, Console(width=80))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["ant", "100.0%", "bee", "100.0%", "cat", "100.0%"]


def test_every_class_of_cifar100_has_exactly_one_superclass():
    names = tuple(name for group in SUPERCLASSES.values() for name in group)
    assert (len(SUPERCLASSES), len(set(names))) == (20, 100)
    assert superclass_of(tuple(sorted(names)))[0] == list(SUPERCLASSES).index("fruit and vegetables"), "apple"
    assert superclass_of(("red_disc", "blue_star")) is None
