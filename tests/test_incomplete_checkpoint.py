"""Checkpoints that are valid files, but not what the run wrote."""

import shutil
from contextlib import contextmanager

import pytest
from processes import faulty_trainer, run, trainer
from run_directory import comparable

from data.errors import DataError
from regnet.checkpoint.file import CheckpointError, load, pack
from regnet.checkpoint.load_model import load_trained_model, weights_only_checkpoint
from regnet.checkpoint.manager import CheckpointManager
from regnet.evaluate import evaluate_checkpoint
from regnet.predict import from_checkpoint

LONGER = ("--train.max_steps_per_epoch", "2", "--schedule.name", "baseline", "--train.epochs")
KEYS = ("model", "scaler", "ema", "metrics", "stopping", "progress", "random", "config", "data")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(faulty_trainer(folder, shards, "declining_metrics", *LONGER, "2")).returncode == 0
    return folder / "tiny"


@pytest.fixture
def checkpoints(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "tiny")
    return CheckpointManager(tmp_path / "tiny" / "checkpoints", 9)


@contextmanager
def changed(path):
    """The contents of a checkpoint, which are written again after the block has changed them."""
    saved = load(path)
    yield saved
    path.write_bytes(pack(saved))


def rejected(tmp_path, shards):
    done = run(trainer(tmp_path, shards, *LONGER, "3"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("key", KEYS)
def test_a_checkpoint_without_one_of_its_keys_is_rejected(shards, tmp_path, checkpoints, key):
    newest = checkpoints.path(4)
    with changed(newest) as saved:
        del saved[key]
    message = f"error: {newest}: incomplete checkpoint ('{key}' is missing); use one written by train_ddp.py"
    assert rejected(tmp_path, shards).startswith(message)


def test_a_checkpoint_without_a_field_of_its_progress_is_rejected(shards, tmp_path, checkpoints):
    with changed(checkpoints.path(4)) as saved:
        del saved["progress"]["best_step"]
    assert "('best_step' is missing)" in rejected(tmp_path, shards)


def test_a_checkpoint_of_weights_only_is_not_resumed(shards, tmp_path, checkpoints):
    newest = checkpoints.path(4)
    with changed(newest) as saved:
        del saved["optimizer"]
    assert f"{newest} holds weights only, which cannot be resumed: use --model.weights" in rejected(tmp_path, shards)


def test_weights_of_another_type_are_rejected(shards, tmp_path, checkpoints):
    """They would be converted, and the run would not be the same."""
    with changed(checkpoints.path(4)) as saved:
        name = next(iter(saved["model"]))
        saved["model"][name] = saved["model"][name].half()
    assert f"{name} is torch.float16, expected torch.float32" in rejected(tmp_path, shards)


def test_the_best_checkpoint_of_another_run_does_not_become_this_ones(shards, tmp_path, checkpoints):
    """Although its best epoch is of the same step."""
    best = comparable(load(checkpoints.best))
    with changed(checkpoints.best) as other:
        other["progress"]["best_top1"] /= 2
        other["config"]["optim"]["lr"] = 0.5
    done = run(trainer(tmp_path, shards, *LONGER, "2"))
    assert f"{checkpoints.best}: restored from step-000000002.pt" in done.stdout, done.stderr
    assert comparable(load(checkpoints.best)) == best


@pytest.mark.parametrize(
    ("section", "option", "value", "words"),
    [
        ("train", "of_a_newer_version", 3, "unknown option train.of_a_newer_version"),
        ("model", "w_m", 0.5, "model.w_m must be between 1 and 65536, got 0.5"),
        ("model", "stem_width", 16, "the checkpoint holds a different network: stem.conv_3x3.weight has shape"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_rejected_with_the_name_of_the_file(
    checkpoints, section, option, value, words
):
    with changed(checkpoints.best) as saved:
        saved["config"][section][option] = value
    with pytest.raises(CheckpointError) as caught:
        load_trained_model(checkpoints.best)
    assert str(caught.value).startswith(f"{checkpoints.best}: {words}")


USES = {load_trained_model: ("model", "config", "classes", "progress"), weights_only_checkpoint: ("model", "data")}


@pytest.mark.parametrize(("use", "key"), [(use, key) for use, keys in USES.items() for key in keys])
def test_a_network_without_what_describes_it_is_rejected(checkpoints, use, key):
    with changed(checkpoints.best) as saved:
        del saved[key]
    with pytest.raises(CheckpointError) as caught:
        use(checkpoints.best)
    assert str(caught.value) == (
        f"{checkpoints.best}: incomplete checkpoint ('{key}' is missing); use one written by train_ddp.py or "
        "regnet.export --weights"
    )


@pytest.mark.parametrize("use", [from_checkpoint, lambda path: evaluate_checkpoint(path, device="cpu")])
def test_a_checkpoint_whose_shards_are_gone_can_be_used_with_others(checkpoints, tmp_path, use):
    with changed(checkpoints.best) as saved:
        saved["config"]["data"]["shards"] = str(tmp_path / "gone")
    with pytest.raises(DataError) as caught:
        use(checkpoints.best)
    assert str(caught.value) == (
        f"{tmp_path}/gone: no manifest.json: not a converted dataset, or its conversion was not completed; convert it "
        "with python -m data.convert, or use --shards to name converted images of the same classes"
    )
