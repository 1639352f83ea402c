"""A network sees all images as normalised as in its training, whatever the mean of the shards that they come from."""

import shutil

import numpy as np
import pytest
import torch
from converting import convert
from images import class_folders
from PIL import Image
from processes import TINY, run, trainer
from thoroughness import parametrize_some

from data.manifest import read_manifest
from regnet.checkpoint.file import load, pack
from regnet.checkpoint.load_model import load_trained_model
from regnet.config.parser import parse_config
from regnet.evaluate import evaluate_checkpoint
from regnet.export.onnx_export import export_onnx
from regnet.export.weights_export import export_weights
from regnet.predict import classify, from_checkpoint, from_onnx
from regnet.training.distillation import open_teacher


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two datasets with the same validation images, and training images of another brightness; a run on the first."""
    folder = tmp_path_factory.mktemp("normalization")
    images = class_folders(folder / "images")
    shutil.copytree(images, folder / "bright")
    for path in (folder / "bright" / "train").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2 + 128).save(path)
    for name in ("images", "bright"):
        done = convert(
            "--source", "folder", "--root", folder / name, "--out", folder / f"{name}-shards", "--resolution", 32
        )
        assert done.returncode == 0, done.stderr
    done = run(trainer(folder, folder / "images-shards", "--train.batch_size", "6"))
    assert done.returncode == 0, done.stderr
    shutil.copy(folder / "tiny" / "checkpoints" / "best.pt", folder / "best.pt")
    export_weights(folder / "best.pt", folder / "weights.pt")
    return folder


def test_the_datasets_differ_in_their_normalisation(place):
    first, second = (read_manifest(place / name) for name in ("images-shards", "bright-shards"))
    assert first.mean != second.mean
    assert load(place / "best.pt")["normalization"] == {"mean": list(first.mean), "std": list(first.std)}


@pytest.mark.parametrize("checkpoint", ["best.pt", "weights.pt"])
def test_the_evaluation_of_the_same_images_is_the_same(place, checkpoint):
    first, second = (
        evaluate_checkpoint(place / checkpoint, place / name, "cpu") for name in ("images-shards", "bright-shards")
    )
    assert first == second


@parametrize_some("checkpoint", ["best.pt", "weights.pt"])
def test_predictions_and_onnx_models_are_the_same(place, checkpoint, tmp_path):
    images = sorted((place / "images" / "test").rglob("*.png"))
    models = []
    for name in ("images-shards", "bright-shards"):
        path = tmp_path / f"{name}.onnx"
        export_onnx(load_trained_model(place / checkpoint), path, normalize=True, shards=place / name)
        models += [from_checkpoint(place / checkpoint, place / name), from_onnx(path)]
    found = [[prediction.probabilities for prediction in classify(model, images)] for model in models]
    assert found[0] == found[2]
    assert found[1] == found[3]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_checkpoint_without_normalisation_uses_that_of_the_shards(place, tmp_path):
    saved = load(place / "best.pt")
    del saved["normalization"]
    (tmp_path / "best.pt").write_bytes(pack(saved))
    first, second = (
        evaluate_checkpoint(tmp_path / "best.pt", place / name, "cpu") for name in ("images-shards", "bright-shards")
    )
    assert first["loss"] != second["loss"]
    assert first == evaluate_checkpoint(place / "best.pt", place / "images-shards", "cpu")


@pytest.mark.parametrize("name", ["images-shards", "bright-shards"])
def test_a_teacher_sees_images_as_in_its_training(place, name):
    config = parse_config(("--config", str(TINY), "--distill.teacher", str(place / "best.pt")))
    manifest, trained = read_manifest(place / name), load_trained_model(place / "best.pt")
    teacher = open_teacher(config, manifest)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(4, 3, 32, 32)

    def normalized(mean, std):
        return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    expected = trained.model(normalized(**trained.normalization))
    torch.testing.assert_close(teacher(normalized(manifest.mean, manifest.std)), expected, atol=1e-5, rtol=1e-5)
