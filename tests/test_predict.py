"""python -m regnet.predict: from a checkpoint and from the exported file alone."""

import json

import pytest
from nursery import ForkedCommand
from PIL import Image
from programs import run, trainer

from data.sources.registry import Kind, open_source


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """A run that has learnt something, its network as ONNX, and the images that it was tested on, as files."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ("--train.epochs", "6", "--optim.lr", "0.01")
    assert run(trainer(folder, shards, *flags)).returncode == 0
    checkpoint = next((folder / "tiny" / "checkpoints").glob("step-000000066.pt"))
    exported = ["-m", "regnet.export", "--checkpoint", str(checkpoint), "--onnx", str(folder / "a.onnx"), "--normalize"]
    assert run(ForkedCommand(exported)).returncode == 0
    source = open_source(Kind.synthetic, None, per_class=10)
    images = folder / "images"
    images.mkdir()
    for index in range(40):
        source.val[index][0].save(images / f"{index:03d}.png")
    return checkpoint, folder / "a.onnx", images


def predict(*arguments):
    return run(ForkedCommand(["-m", "regnet.predict", *map(str, arguments)]))


def told(*arguments):
    done = predict(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_checkpoint_and_exported_file_say_the_same_and_what_the_evaluation_counted(trained, tmp_path):
    checkpoint, exported, images = trained
    ours, theirs = told("--checkpoint", checkpoint, images), told("--onnx", exported, images)
    assert [entry["image"] for entry in ours] == sorted(str(path) for path in images.iterdir())
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["classes"][0] == other["classes"][0]
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert mine["probabilities"] == sorted(mine["probabilities"], reverse=True)
        assert len(set(mine["classes"])) == 5
    source = open_source(Kind.synthetic, None, per_class=10)
    right = sum(entry["classes"][0] == source.classes[source.val[index][1]] for index, entry in enumerate(ours))
    file = tmp_path / "told.json"
    evaluated = ["-m", "regnet.evaluate", "--checkpoint", str(checkpoint), "--device", "cpu", "--json", str(file)]
    assert run(ForkedCommand(evaluated)).returncode == 0
    confusion = json.loads(file.read_text())["confusion"]
    counted = sum(confusion[source.val[index][1]][source.val[index][1]] for index in {0, *range(100)})
    assert counted >= right, "of all 200, what is right of the first 40"


def test_images_of_other_sizes_and_kinds_are_taken_and_told_for_people(trained, tmp_path):
    checkpoint, _, images = trained
    with Image.open(images / "003.png") as image:
        image.resize((96, 64)).convert("L").save(tmp_path / "grey.jpeg")
    done = predict("--checkpoint", checkpoint, "--top", "2", tmp_path / "grey.jpeg", images / "003.png")
    assert done.returncode == 0, done.stderr
    first, cells, second, _ = done.stdout.splitlines()
    assert (first, second) == (str(tmp_path / "grey.jpeg"), str(images / "003.png"))
    assert cells.count("%") == 2


def test_what_is_no_image_or_no_network_is_told_in_one_line(trained, tmp_path):
    checkpoint, _, images = trained
    (tmp_path / "cut.png").write_bytes((images / "000.png").read_bytes()[:90])
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("--checkpoint", checkpoint, "--top", "0", images), "at least one class"),
        (("--checkpoint", checkpoint, tmp_path / "cut.png"), "cut.png: cannot be decoded"),
        (("--checkpoint", checkpoint, tmp_path / "none.png"), "none.png: no such file"),
        (("--checkpoint", checkpoint, tmp_path / "empty"), "no images"),
        (("--onnx", checkpoint, images), "cannot be opened"),
    ):
        done = predict(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
