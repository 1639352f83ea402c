"""The sizes and the encoding of stored images."""

import numpy as np
import pytest
from converting import assert_rejected, convert, one_class_per_folder, read_all, replace_image
from images import class_folders
from PIL import Image

from data.manifest import read_manifest
from data.reading.mmap_shards import MappedShards
from data.reading.shard_tables import IMAGE_MODES


def test_larger_images_are_resized_and_compressed_on_request(tmp_path):
    """Smooth images are nearly unchanged by both."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack(
        [np.broadcast_to(ramp, (64, 96)), np.broadcast_to(ramp[:64, None], (64, 96)), np.full((64, 96), 90)], 2
    )
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / "0.png")
    options = ("--source", "folder", "--root", tmp_path, "--out", tmp_path / "out", "--shards", 1)
    assert_rejected(convert(*options, "--resolution", 32), "96x64 pixels instead of 32x32", "--resize")
    done = convert(*options, "--resize", "--resolution", 48, "--mode", "jpg", "--quality", 95)
    assert done.returncode == 0, done.stderr
    stored = read_all(tmp_path / "out", "train")[0][0].astype(int)
    expected = Image.fromarray(pixels.astype(np.uint8)).resize((72, 48), Image.Resampling.BICUBIC).crop((12, 0, 60, 48))
    assert np.abs(stored - np.asarray(expected, dtype=int)).mean() < 4


@pytest.mark.parametrize("size", [(40, 40), (500, 24), (24, 40)])
def test_images_of_one_small_size_are_stored_as_they_are(tmp_path, size):
    root, out = one_class_per_folder(tmp_path / "images", [size] * 5), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"note: all images are {size[0]}x{size[1]} pixels and are stored at this size\n" in done.stdout
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (max(size), size[0] != size[1])
    stored = b"".join(path.read_bytes() for path in sorted(out.glob("*.beton")))
    for path in root.glob("*/*"):
        with Image.open(path) as image:
            assert image.tobytes() in stored


@pytest.mark.parametrize(("size", "stored"), [((800, 600), (500, 375)), ((501, 501), (500, 500))])
def test_images_of_one_large_size_are_stored_like_images_of_different_sizes(tmp_path, size, stored):
    root, out = one_class_per_folder(tmp_path / "images", [size] * 2, suffix=".jpg"), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert done.returncode == 0, done.stderr
    assert (
        f"note: all images are {size[0]}x{size[1]} pixels: they keep their shapes, sides longer than 500 pixels are "
        "shrunk, and they are stored as JPEG, as with --longest-side 500 --mode jpg\n"
    ) in done.stdout
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (500, True)
    shards = MappedShards(out, manifest, "train")
    assert {(width, height) for height, width in shards.sizes.tolist()} == {stored}
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["jpg"]}


def test_images_of_different_sizes_keep_their_shapes(tmp_path):
    sizes = [(40, 40), (41, 40), (600, 300), (20, 501), (500, 30)]
    root, out = one_class_per_folder(tmp_path / "images", sizes, suffix=".jpg"), tmp_path / "out"
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert done.returncode == 0, done.stderr
    assert "sides longer than 500 pixels are shrunk, and they are stored as JPEG, as with" in done.stdout
    assert "the validation split" not in done.stdout, "it was given"
    manifest = read_manifest(out)
    assert (manifest.resolution, manifest.mixed) == (500, True)
    shards = MappedShards(out, manifest, "train")
    stored = {(40, 40), (41, 40), (500, 250), (20, 500), (500, 30)}
    assert {(width, height) for height, width in shards.sizes.tolist()} == stored
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["jpg"]}
    again = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1)
    assert "already converted" in again.stdout
    done = convert("--source", "folder", "--root", root, "--out", out, "--hold-out", 1, "--mode", "raw", "--overwrite")
    assert "they are stored as raw bytes, as with --longest-side 500 --mode raw\n" in done.stdout
    shards = MappedShards(out, read_manifest(out), "train")
    assert set(shards.metadata["f0"]["mode"].tolist()) == {IMAGE_MODES["raw"]}


def test_a_damaged_image_does_not_decide_about_sizes(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(40, 40)] * 5)
    (root / "ant" / "0.png").write_bytes(b"damaged")
    options = ("--source", "folder", "--root", root, "--out", tmp_path / "out")
    assert_rejected(convert(*options), root / "ant" / "0.png", "cannot be decoded")
    assert convert(*options, "--skip-bad").returncode == 0
    assert read_manifest(tmp_path / "out").resolution == 40


def test_resizing_needs_a_size(tmp_path):
    root = one_class_per_folder(tmp_path / "images", [(40, 40)] * 5)
    options = ("--source", "folder", "--root", root, "--out", tmp_path / "out", "--resize")
    assert_rejected(convert(*options), "--resize needs a size: add --resolution N")
    assert convert(*options, "--resolution", 16).returncode == 0
    assert read_manifest(tmp_path / "out").resolution == 16


def test_images_that_are_not_rgb_are_converted_and_counted(tmp_path):
    source = class_folders(tmp_path / "images")
    replace_image(source, Image.new("L", (32, 32), 77))
    options = ("--source", "folder", "--root", source, "--shards", 1)
    done = convert(*options, "--out", tmp_path / "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: images changed when read: 1 greyscale converted to RGB\n" in done.stdout
    assert (read_all(tmp_path / "one", "train")[0][5] == 77).all()
    palette = Image.new("P", (32, 32))
    palette.putpalette([10, 20, 30] * 256)
    folder = source / "train" / "cat"
    Image.new("LA", (32, 32), (99, 0)).save(folder / "0.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 40)).save(folder / "1.png")
    palette.save(folder / "2.png", transparency=bytes([0, 128]))
    Image.new("CMYK", (32, 32), (0, 0, 0, 255)).save(source / "test" / "ant" / "0.tiff")
    done = convert(*options, "--out", tmp_path / "several")
    assert (done.returncode, done.stderr) == (0, "")
    kinds = "1 CMYK converted to RGB, 2 greyscale converted to RGB, 1 palette converted to RGB, "
    assert f"note: images changed when read: {kinds}3 transparent composited on white\n" in done.stdout
    pixels = read_all(tmp_path / "several", "train")[0]
    assert [pixels[index, 0, 0].tolist() for index in (8, 9, 10)] == [[255, 255, 255], [215, 215, 215], [255, 255, 255]]
    assert read_all(tmp_path / "several", "val")[0][1, 0, 0].tolist() == [0, 0, 0]
