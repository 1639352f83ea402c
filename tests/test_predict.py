"""python -m regnet.predict, from a checkpoint and from an exported ONNX model."""

import json
import shutil

import numpy as np
import pytest
from fork_server import ForkedCommand
from PIL import ExifTags, Image
from processes import ROOT, run, trainer

from data.errors import DataError
from data.sources.registry import Kind, open_source
from regnet.predict import classify, from_onnx


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """The checkpoint of a short run, its ONNX model, and 40 of the run's validation images as files."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ("--train.epochs", "6", "--optim.lr", "0.01")
    assert run(trainer(folder, shards, *flags)).returncode == 0
    checkpoint = next((folder / "tiny" / "checkpoints").glob("step-000000066.pt"))
    exported = ["-m", "regnet.export", "--checkpoint", str(checkpoint), "--onnx", str(folder / "a.onnx"), "--normalize"]
    assert run(ForkedCommand(exported)).returncode == 0
    source, _ = open_source(Kind.synthetic, None, per_class=10)
    images = folder / "images"
    images.mkdir()
    for index in range(40):
        source.val[index][0].save(images / f"{index:03d}.png")
    return checkpoint, folder / "a.onnx", images


def test_an_image_that_cannot_be_read_is_an_error_of_the_function(tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "black.png")
    (tmp_path / "damaged.png").write_bytes(b"damaged")
    classifier = from_onnx(ROOT / "artifacts" / "cifar100-best.onnx")
    paths = [tmp_path / name for name in ("black.png", "damaged.png", "none.png")]
    assert [prediction.image for prediction in classify(classifier, paths[:1])] == [str(paths[0])]
    with pytest.raises(DataError, match=f"{paths[1]}: cannot be decoded"):
        classify(classifier, paths)


def predict(*arguments):
    return run(ForkedCommand(["-m", "regnet.predict", *map(str, arguments)]))


def predictions(*arguments):
    done = predict(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_checkpoint_and_onnx_model_agree_with_each_other_and_with_evaluation(trained, tmp_path):
    checkpoint, exported, images = trained
    from_checkpoint = predictions("--checkpoint", checkpoint, images)
    from_onnx = predictions("--onnx", exported, images)
    assert [entry["image"] for entry in from_checkpoint] == sorted(str(path) for path in images.iterdir())
    for one, other in zip(from_checkpoint, from_onnx, strict=True):
        assert one["classes"][0] == other["classes"][0]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert one["probabilities"] == sorted(one["probabilities"], reverse=True)
        assert len(set(one["classes"])) == 5
    source, _ = open_source(Kind.synthetic, None, per_class=10)
    names = [entry["classes"][0] for entry in from_checkpoint]
    correct = sum(name == source.classes[source.val[index][1]] for index, name in enumerate(names))
    file = tmp_path / "evaluation.json"
    evaluated = ["-m", "regnet.evaluate", "--checkpoint", str(checkpoint), "--device", "cpu", "--json", str(file)]
    assert run(ForkedCommand(evaluated)).returncode == 0
    confusion = json.loads(file.read_text())["confusion"]
    all_correct = sum(confusion[source.val[index][1]][source.val[index][1]] for index in {0, *range(100)})
    assert all_correct >= correct, "the 40 images are among the 200 evaluated ones"


def test_greyscale_images_of_other_sizes_are_classified_and_printed_as_text(trained, tmp_path):
    checkpoint, _, images = trained
    with Image.open(images / "003.png") as image:
        image.resize((96, 64)).convert("L").save(tmp_path / "grey.jpeg")
    done = predict("--checkpoint", checkpoint, "--top", "2", tmp_path / "grey.jpeg", images / "003.png")
    assert done.returncode == 0, done.stderr
    first, cells, second, _ = done.stdout.splitlines()
    assert (first, second) == (str(tmp_path / "grey.jpeg"), str(images / "003.png"))
    assert cells.count("%") == 2


def test_an_image_is_two_lines_of_text_whatever_its_name_and_the_number_of_classes(trained, tmp_path):
    checkpoint, _, images = trained
    shutil.copy(images / "003.png", tmp_path / "new\nline, \x1b[31mred, [b]markup é.png")
    done = predict("--checkpoint", checkpoint, "--top", "1000", tmp_path)
    assert done.returncode == 0, done.stderr
    name, cells = done.stdout.splitlines()
    assert name == f"{tmp_path}/new\\nline, \\x1b[31mred, [b]markup é.png"
    assert cells.count("%") == 100
    assert cells == cells.rstrip()


def test_unusable_images_and_models_are_one_line_errors(trained, tmp_path):
    checkpoint, _, images = trained
    (tmp_path / "truncated.png").write_bytes((images / "000.png").read_bytes()[:90])
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("--checkpoint", checkpoint, "--top", "0", images), "argument --top: must be a positive integer, got '0'"),
        (("--checkpoint", checkpoint, tmp_path / "truncated.png"), "truncated.png: cannot be decoded"),
        (("--checkpoint", checkpoint, tmp_path / "none.png"), "none.png: No such file"),
        (("--checkpoint", checkpoint, tmp_path / "empty"), "no images"),
        (("--onnx", checkpoint, images), "not a readable ONNX model"),
    ):
        done = predict(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr


@pytest.mark.thorough
def test_predictions_do_not_depend_on_how_a_file_stores_the_same_image(trained, tmp_path):
    """Rotated by its EXIF orientation, with 16 bits, transparent, in formats of other endings."""
    checkpoint, _, images = trained
    colour = Image.open(images / "004.png")
    grey = colour.convert("L")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    white = Image.new("RGBA", colour.size, (200, 0, 0, 0))
    white.paste(colour, (8, 8))
    for name in ("colour", "grey", "white"):
        (tmp_path / name).mkdir()
    colour.save(tmp_path / "colour" / "plain.png")
    colour.rotate(90).save(tmp_path / "colour" / "rotated.png", exif=exif)
    colour.save(tmp_path / "colour" / "image.BMP")
    colour.save(tmp_path / "colour" / "image.webp", lossless=True)
    grey.convert("RGB").save(tmp_path / "grey" / "plain.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256).save(tmp_path / "grey" / "deep.png")
    grey.save(tmp_path / "grey" / "image.gif")
    white.save(tmp_path / "white" / "transparent.png")
    Image.alpha_composite(Image.new("RGBA", white.size, "white"), white).convert("RGB").save(
        tmp_path / "white" / "plain.png"
    )
    for name, kinds, changes in (
        ("colour", 4, "1 rotated (EXIF orientation)"),
        ("grey", 3, "1 16-bit scaled to 8 bits, 1 greyscale converted to RGB, 1 palette converted to RGB"),
        ("white", 2, "1 transparent composited on white"),
    ):
        done = predict("--checkpoint", checkpoint, "--json", tmp_path / name)
        assert (done.returncode, done.stderr) == (0, f"note: images changed when read: {changes}\n")
        found = json.loads(done.stdout)
        assert len(found) == kinds
        for entry in found[1:]:
            assert (entry["classes"], entry["probabilities"]) == (found[0]["classes"], found[0]["probabilities"])


def test_a_damaged_file_in_a_folder_is_reported_and_the_others_are_predicted(trained, tmp_path):
    checkpoint, _, images = trained
    folder = tmp_path / "photos"
    (folder / ".thumbnails").mkdir(parents=True)
    for name in ("a.png", "b.png", "d.png", ".hidden.png", "notes.txt"):
        shutil.copy(images / "005.png", folder / name)
    (folder / "b.png").write_bytes(b"damaged")
    (folder / "c.png").write_bytes((images / "005.png").read_bytes()[:90])
    (folder / "again").symlink_to(folder)
    done = predict("--checkpoint", checkpoint, "--json", folder)
    assert done.returncode == 1
    assert [entry["image"] for entry in json.loads(done.stdout)] == [str(folder / "a.png"), str(folder / "d.png")]
    assert done.stderr.splitlines() == [
        "note: 4 files ignored (hidden: 2, .txt: 1, folders found again through links: 1)",
        f"error: {folder}/b.png: cannot be decoded (not an image of a known format)",
        f"error: {folder}/c.png: cannot be decoded (image file is truncated)",
        "failed: 2 of 4 images cannot be read",
    ]
    (folder / "dead.png").symlink_to("nowhere")
    done = predict("--checkpoint", checkpoint, folder / "dead.png", folder / "a.png")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, str(folder / "a.png"))
    assert f"error: {folder}/dead.png: cannot be read (No such file or directory)\n" in done.stderr
    done = predict("--checkpoint", checkpoint, folder / "b.png", folder / "c.png")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 3)
