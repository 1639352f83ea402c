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
    assert not (out / "manifest.json").exists()
    done = convert(*options, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert read_manifest(out).skipped == (str(path),)
    assert read_manifest(out).samples("train") == 11
    assert read_all(out, "train")[2].tolist() == list(range(11))
