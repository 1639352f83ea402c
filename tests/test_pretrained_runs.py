"""Runs that start from pretrained weights, and what the doctor and the summary say of these."""

import shutil

import pytest
import torch
from fork_server import ForkedCommand
from pretrained_weights import read_for_tiny, tiny_config, tiny_torchvision_model
from processes import TINY, run, trainer
from run_directory import result, rows

from data.manifest import read_manifest
from regnet.checkpoint.file import load, pack
from regnet.checkpoint.manager import CheckpointManager
from regnet.config.parser import parse_config
from regnet.doctor.requirements import check_weights
from regnet.errors import UsageError
from regnet.models.regnet import Model

ONE_EPOCH = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--train.max_steps_per_epoch", "2")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny_torchvision_model().state_dict(), path)
    return path


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_starts_from_weights_and_resumes_without_the_file(shards, weights_file, tmp_path, processes):
    """Steps at a negligible learning rate leave the weights unchanged."""
    copy = tmp_path / "weights.pth"
    shutil.copy(weights_file, copy)
    flags = ("--model.weights", str(copy), "--model.head", "new", "--optim.ema_decay", "0.9", *ONE_EPOCH)
    no_change = ("--optim.name", "sgd", "--optim.lr", "1e-30", "--schedule.start_lr", "0", "--schedule.min_lr", "0")
    command = trainer(tmp_path, shards, *flags, *no_change, "--schedule.name", "baseline", processes=processes)
    done = run(command)
    assert done.returncode == 0, done.stderr
    expected = read_for_tiny(weights_file, classes=100, head="new").tensors
    assert done.stdout.count(f"Starting from {copy}: ") == 1
    assert "of torchvision; the head is newly initialised" in done.stdout
    saved = load(CheckpointManager(tmp_path / "tiny" / "checkpoints", 1).paths()[-1])
    for name, value in expected.items():
        if "running" not in name and value.is_floating_point():
            assert torch.equal(saved["model"][name], value), name
            torch.testing.assert_close(saved["ema"][f"module.{name}"], value)
    copy.unlink()
    longer = trainer(tmp_path, shards, *flags, *no_change, "--schedule.name", "baseline", "--train.epochs", "2")
    done = run(longer)
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stdout
    assert "Starting from" not in done.stdout
    assert len(rows(tmp_path / "tiny", "epoch")) == 2


def test_a_run_starts_from_the_ema_weights_of_another(shards, tmp_path):
    first = run(trainer(tmp_path / "first", shards, "--optim.ema_decay", "0.9", *ONE_EPOCH))
    assert first.returncode == 0, first.stderr
    checkpoint = CheckpointManager(tmp_path / "first" / "tiny" / "checkpoints", 1).paths()[-1]
    saved, found = load(checkpoint), read_for_tiny(checkpoint, classes=100)
    assert "this program" in found.description
    assert found.tensors.keys() == saved["model"].keys()
    assert all(torch.equal(value, saved["ema"][f"module.{name}"]) for name, value in found.tensors.items())
    assert not torch.equal(found.tensors["head.f_out.weight"], saved["model"]["head.f_out.weight"])
    second = run(trainer(tmp_path / "second", shards, "--model.weights", str(checkpoint), *ONE_EPOCH))
    assert second.returncode == 0, second.stderr
    assert result(tmp_path / "second" / "tiny")["epochs"] == 1


def test_unusable_weights_are_a_one_line_error_and_the_run_can_be_started_again(shards, weights_file, tmp_path):
    """Also with another number of epochs, which a cosine schedule depends on."""
    wrong = run(trainer(tmp_path, shards, "--model.weights", str(weights_file), "--train.epochs", "4", processes=2))
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1), wrong.stderr
    assert "--model.head new" in wrong.stderr
    flags = ("--model.weights", str(weights_file), "--model.head", "new", *ONE_EPOCH)
    listed = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert "it did not start training" in listed.stdout, listed.stderr
    corrected = run(trainer(tmp_path, shards, *flags))
    assert corrected.returncode == 0, corrected.stderr


def test_the_doctor_checks_the_weights_of_a_new_run(weights_file, tmp_path):
    config = parse_config(["--config", str(TINY), f"--model.weights={weights_file}", "--model.head=new"])
    (found,) = check_weights(config, tmp_path)
    assert f"Starting from {weights_file}" in found.message
    with pytest.raises(UsageError, match=r"--model\.head new"):
        check_weights(parse_config(["--config", str(TINY), f"--model.weights={weights_file}"]), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").touch()
    assert check_weights(config, tmp_path) == []


def test_doctor_and_trainer_reject_a_classifier_of_other_classes(shards, tmp_path):
    """The same classes in another order are other classes."""
    names, path = read_manifest(shards).classes, tmp_path / "checkpoint.pt"
    model = Model(tiny_config().design(), len(names)).state_dict()
    flags = ("--model.weights", str(path), "--data.shards", str(shards))
    config = parse_config(["--config", str(TINY), *flags])
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names)}))
    assert "of this program" in check_weights(config, tmp_path)[0].message
    path.write_bytes(pack({"model": model, "ema": None, "classes": list(names[::-1])}))
    with pytest.raises(UsageError, match="its classes have different names"):
        check_weights(config, tmp_path)
    done = run(trainer(tmp_path, shards, *flags, *ONE_EPOCH))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "its classes have different names" in done.stderr


def test_the_summary_shows_pretrained_weights(weights_file):
    flags = ("--config", str(TINY), "--model.weights", str(weights_file), "--classes", "10")
    done = run(ForkedCommand(["-m", "regnet.summary", *flags, "--values", "stem.bn.bias"]))
    assert done.stdout.strip() == str(torch.load(weights_file)["stem.1.bias"]), done.stderr
