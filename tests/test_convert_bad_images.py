"""Images that cannot be stored."""

from converting import assert_rejected, convert, read_all, replace_image
from images import class_folders
from PIL import Image

from data.manifest import read_manifest


def test_unsuitable_images_are_named_and_can_be_skipped(tmp_path):
    source, out = class_folders(tmp_path / "images"), tmp_path / "out"
    options = ("--source", "folder", "--root", source, "--out", out, "--shards", 2, "--resolution", 32)
    path = replace_image(source, Image.new("RGB", (33, 32)))
    assert_rejected(convert(*options), path, "33x32", "--resize", "--longest-side", "--skip-bad")
    path.write_bytes(path.read_bytes()[:40])
    assert_rejected(convert(*options), path, "cannot be decoded", "--skip-bad")
    assert not out.exists()
    done = convert(*options, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert f"note: 1 image that cannot be stored was skipped; listed under 'skipped' in {out / 'manifest.json'}\n" in (
        done.stdout
    )
    assert read_manifest(out).skipped == (str(path),)
    assert read_manifest(out).samples("train") == 11
    assert read_all(out, "train")[2].tolist() == list(range(11))


def damage(root, split, names):
    for name in names:
        (root / split / name).write_bytes(b"damaged")


def test_skipped_images_leave_no_trace_in_the_shards(tmp_path):
    """The result is that of the same images without the bad ones: ids are consecutive, shards equal in size."""
    bad = ["ant/0.png", "bee/1.png", "bee/3.png", "cat/3.png"]
    root, out = class_folders(tmp_path / "images"), tmp_path / "out"
    damage(root, "train", bad)
    damage(root, "test", ["cat/0.png"])
    options = ("--source", "folder", "--root", root, "--shards", 3, "--resolution", 32)
    done = convert(*options, "--skip-bad", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 5 images that cannot be stored were skipped" in done.stdout
    skipped = [*(root / "train" / name for name in bad), root / "test" / "cat" / "0.png"]
    assert read_manifest(out).skipped == tuple(map(str, skipped))
    assert read_manifest(out).source["skip_bad"] is True
    for path in skipped:
        path.unlink()
    assert convert(*options, "--out", tmp_path / "without").returncode == 0
    assert read_manifest(out).splits == read_manifest(tmp_path / "without").splits
    assert_rejected(convert(*options, "--out", out), "--skip-bad was given, now not given")


def test_a_class_without_training_images_is_rejected(tmp_path):
    root, out = class_folders(tmp_path / "images"), tmp_path / "out"
    damage(root, "train", [f"bee/{number}.png" for number in range(4)])
    done = convert("--source", "folder", "--root", root, "--out", out, "--skip-bad", "--resolution", 32)
    assert_rejected(done, "class bee has no training image that can be stored", root / "train" / "bee", "decoded")
    assert not out.exists()


def test_a_split_without_images_is_rejected(tmp_path):
    root, out = class_folders(tmp_path / "images"), tmp_path / "out"
    damage(root, "test", [f"{name}/{number}.png" for name in ("ant", "bee", "cat") for number in range(2)])
    done = convert("--source", "folder", "--root", root, "--out", out, "--skip-bad", "--resolution", 32)
    assert_rejected(done, "there are no val images that can be stored: ", root / "test" / "ant" / "0.png", "decoded")
    assert not out.exists()


def test_validation_images_that_are_also_training_images_are_counted(tmp_path):
    root = class_folders(tmp_path / "images", classes=("ant", "bee"))
    pixels = Image.open(root / "train" / "ant" / "0.png")
    pixels.save(root / "test" / "ant" / "0.bmp")
    pixels.save(root / "test" / "bee" / "1.png")
    pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "bee" / "0.png")
    done = convert("--source", "folder", "--root", root, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: 2 of 5 validation images have exactly the pixels of a training image: the validation accuracy" in (
        done.stdout
    )
