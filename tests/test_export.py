"""python -m regnet.export: the same logits outside PyTorch."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from nursery import Forked
from programs import run, trainer

from data.shards import read_manifest
from regnet.trained import open_checkpoint


@pytest.fixture(scope="module")
def checkpoint(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    flags = ("--train.epochs", "1", "--schedule.warmup_epochs", "0", "--optim.lr", "0.01", "--optim.ema_decay", "0.8")
    assert run(trainer(folder, shards, *flags)).returncode == 0
    return folder / "tiny" / "checkpoints" / "best.pt"


def export(*arguments):
    return run(Forked(["-m", "regnet.export", *map(str, arguments)]))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_file_alone_gives_the_networks_logits_for_any_number_of_images(checkpoint, shards, tmp_path, normalize):
    path = tmp_path / "model.onnx"
    done = export("--checkpoint", checkpoint, "--onnx", path, *(["--normalize"] if normalize else []))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "largest difference from PyTorch" in done.stdout
    trained, manifest = open_checkpoint(checkpoint), read_manifest(shards)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(told["classes"])) == manifest.classes
    assert told["resolution"] == "32"
    assert ("inside" in told["normalized"]) is normalize
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (manifest.mean, manifest.std))
    for count in (1, 3, 64):
        images = np.random.default_rng(count).random((count, 3, 32, 32), np.float32)
        (found,) = session.run(None, {"images": images})
        assert found.shape == (count, 100)
        given = (images - mean) / std if normalize else images
        with torch.inference_mode():
            expected = trained.model(torch.from_numpy(given)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_difference_above_the_bound_fails_and_says_so(checkpoint, tmp_path):
    done = export("--checkpoint", checkpoint, "--onnx", tmp_path / "model.onnx", "--bound", "1e-30")
    assert done.returncode == 1
    assert "differs from PyTorch by more than 1e-30" in done.stderr


def test_what_cannot_be_read_or_written_is_told_in_one_line(checkpoint, tmp_path):
    for arguments, words in (
        (("--checkpoint", tmp_path / "none.pt", "--onnx", tmp_path / "a.onnx"), "none.pt"),
        (("--checkpoint", checkpoint, "--onnx", tmp_path / "no" / "a.onnx"), "No such file"),
        (("--checkpoint", checkpoint, "--onnx", "a.onnx", "--normalize", "--shards", tmp_path), "no manifest.json"),
    ):
        done = export(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
