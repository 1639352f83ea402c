"""How image files are read: every kind becomes upright 8-bit RGB by the same rules, or is refused by name."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from fork_server import ForkedCommand
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from images import class_folders
from PIL import ExifTags, Image, ImageOps
from processes import run
from thoroughness import examples

from data.errors import DataError
from data.image_encoding import resize_and_crop
from data.image_reading import ENDINGS, open_image, read_image, size_as_read

NOISE = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
DEEP = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
GREY = "greyscale converted to RGB"
WHITE = "transparent composited on white"
DEPTH = "16-bit scaled to 8 bits"
FIRST = "reduced to the first frame"
TURNED = "rotated (EXIF orientation)"


def with_alpha(colours, alpha):
    """Colours of 0 to 255 on white, as floats."""
    return colours * (alpha / 255) + 255 * (1 - alpha / 255)


def grey(values):
    return np.broadcast_to(np.asarray(values)[..., None], (32, 32, 3))


def alpha_image(mode):
    return Image.fromarray(np.concatenate([NOISE, NOISE[..., :1]], 2)[..., : len(mode)].copy(), mode)


def palette_image():
    image = Image.fromarray(NOISE[..., 0] // 64, "P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0, 255, 0, 0])
    return image


PALETTE = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 0], [255, 0, 0]])[NOISE[..., 0] // 64]
KINDS = {  # name of the file: image, options of save, expected pixels, changes
    "rgb.bmp": (Image.fromarray(NOISE), {}, NOISE, ()),
    "rgb.qoi": (Image.fromarray(NOISE), {}, NOISE, ()),
    "rgb.webp": (Image.fromarray(NOISE), {"lossless": True}, NOISE, ()),
    "grey.png": (Image.fromarray(NOISE[..., 0]), {}, grey(NOISE[..., 0]), (GREY,)),
    "bilevel.png": (Image.fromarray(NOISE[..., 0] > 99), {}, grey(NOISE[..., 0] > 99) * 255, (GREY,)),
    "alpha.png": (alpha_image("RGBA"), {}, with_alpha(NOISE, NOISE[..., :1]), (WHITE,)),
    "grey_alpha.png": (alpha_image("LA"), {}, grey(with_alpha(NOISE[..., 0], NOISE[..., 1])), (GREY, WHITE)),
    "opaque.png": (Image.fromarray(NOISE).convert("RGBA"), {}, NOISE, ()),
    "palette.png": (palette_image(), {}, PALETTE, ("palette converted to RGB",)),
    "palette_alpha.png": (
        palette_image(),
        {"transparency": bytes([0, 128, 255, 255])},
        with_alpha(PALETTE, np.array([0, 128, 255, 255])[NOISE[..., 0] // 64][..., None]),
        ("palette converted to RGB", WHITE),
    ),
    "colour_key.png": (
        Image.fromarray(np.full_like(NOISE, 9)),
        {"transparency": (9, 9, 9)},
        grey(DEEP) * 0 + 255,
        (WHITE,),
    ),
    "deep.png": (Image.fromarray(DEEP), {}, grey(DEEP >> 8), (DEPTH, GREY)),
    "deep.tiff": (Image.fromarray(DEEP), {}, grey(DEEP >> 8), (DEPTH, GREY)),
    "deep.pgm": (Image.fromarray(DEEP), {}, grey(DEEP >> 8), (DEPTH, GREY)),
    "cmyk.tif": (Image.new("CMYK", (32, 32), (0, 0, 0, 255)), {}, grey(DEEP) * 0, ("CMYK converted to RGB",)),
    "frames.gif": (
        Image.new("L", (32, 32), 77),
        {"save_all": True, "append_images": [Image.new("L", (32, 32), 200)]},
        grey(DEEP) * 0 + 77,
        (FIRST, "palette converted to RGB"),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_becomes_8_bit_rgb(tmp_path, name):
    image, options, expected, changes = KINDS[name]
    image.save(tmp_path / name, **options)
    found = read_image(tmp_path / name)
    assert (found.image.mode, found.changes) == ("RGB", changes)
    assert np.abs(np.asarray(found.image) - np.asarray(expected, float)).max() <= 1, "compositing rounds"


def png(depth, width, height, rows):
    """A PNG file of RGB pixels, also with values or sizes that Pillow does not write."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)),
        b"IEND": b"",
    }
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_16_bits_are_scaled_alike_in_grey_and_in_colour(tmp_path):
    (tmp_path / "colour.png").write_bytes(png(16, 32, 32, np.stack([DEEP] * 3, 2).astype(">u2")))
    Image.fromarray(DEEP).save(tmp_path / "grey.png")
    assert np.array_equal(*(np.asarray(read_image(tmp_path / name).image) for name in ("colour.png", "grey.png")))


def tiff(bits, photometric, width, height, pixels):
    """A greyscale TIFF file, also of kinds that Pillow does not write."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: height}
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(pixels)))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + pixels


def test_tiff_values_of_12_bits_are_scaled_by_their_own_range(tmp_path):
    """Pillow returns values up to 4095."""
    (tmp_path / "image.tif").write_bytes(tiff(12, 1, 4, 1, bytes.fromhex("000 3e8 7d0 fff".replace(" ", ""))))
    assert np.asarray(read_image(tmp_path / "image.tif").image)[0, :, 0].tolist() == [0, 62, 125, 255]


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_values_of_which_zero_is_white_are_inverted(tmp_path, bits):
    """Pillow inverts those of 8 bits only."""
    stored = np.array([0, 255, 1, 100], np.uint8)
    pixels = stored.tobytes() if bits == 8 else (stored.astype("<u2") << 8).tobytes()
    (tmp_path / "image.tif").write_bytes(tiff(bits, 0, 4, 1, pixels))
    assert np.asarray(read_image(tmp_path / "image.tif").image)[0, :, 0].tolist() == [255, 0, 254, 155]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "avif", "mpo"])
def test_images_are_turned_upright(tmp_path, ending, orientation):
    path = tmp_path / f"image.{ending}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if ending == "webp" else {"save_all": True} if ending == "mpo" else {}
    Image.fromarray(NOISE[:20]).save(path, exif=exif, **options)
    with open_image(path) as image:
        size = size_as_read(image)
    found = read_image(path)
    assert found.image.size == size == ((32, 20) if orientation < 5 else (20, 32))
    assert (TURNED in found.changes) == (orientation != 1)
    with Image.open(path) as image:
        assert np.array_equal(found.image, ImageOps.exif_transpose(image).convert("RGB"))


def test_unreadable_metadata_do_not_spoil_an_image(tmp_path):
    """Pillow raises SyntaxError when asked for the orientation."""
    Image.fromarray(NOISE).save(tmp_path / "image.png", exif=b"Exif\0\0no TIFF header")
    found = read_image(tmp_path / "image.png")
    assert found.changes == ()
    assert np.array_equal(found.image, NOISE)


def test_the_ending_does_not_have_to_be_that_of_the_format(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "image.jpg", "PNG")
    assert np.array_equal(read_image(tmp_path / "image.jpg").image, NOISE)


def test_files_that_pillow_only_identifies_or_hands_to_other_programs_are_no_images():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".avif", ".bmp", ".tif", ".mpo"} <= ENDINGS
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".grib", ".wmf"} & ENDINGS


def damaged_avif(path):
    """Pillow's decoder raises RuntimeError for such a file."""
    Image.fromarray(NOISE).save(path)
    content = path.read_bytes()
    pixels = content.index(b"mdat") + 4
    path.write_bytes(content[:pixels] + b"\xff" * 4 + content[pixels + 4 :])


def damaged_tiff(path):
    """libtiff writes to standard error about such a file."""
    Image.fromarray(NOISE).save(path, compression="tiff_lzw")
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\xff" * 100 + content[108:])


UNUSABLE = {
    "empty.png": (lambda path: path.write_bytes(b""), "cannot be decoded (not an image of a known format)"),
    "text.jpg": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
    "huge.png": (
        lambda path: path.write_bytes(png(8, 20000, 10000, [])),
        "cannot be decoded (Image size (200000000 pixels) exceeds limit of 178956970 pixels)",
    ),
    "damaged.avif": (damaged_avif, "cannot be decoded (Failed to decode frame 0: "),
    "damaged.tif": (damaged_tiff, "cannot be decoded (decoder error -2)"),
    "integers.tif": (lambda path: Image.new("I", (32, 32), 70000).save(path), "mode I has 32 bits per channel"),
    "floats.tif": (lambda path: Image.new("F", (32, 32), 0.5).save(path), "mode F has 32 bits per channel"),
    "pipe.png": (os.mkfifo, "not a regular file"),
    "broken_link.png": (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_whatever_is_wrong_with_an_image_the_message_names_it(tmp_path, capfd, name):
    make, words = UNUSABLE[name]
    make(tmp_path / name)
    with pytest.raises(DataError) as error:
        read_image(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert words in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, RecursionError, struct.error, AssertionError, KeyError])
def test_whatever_a_decoder_raises_the_message_names_the_image(tmp_path, monkeypatch, kind):
    Image.fromarray(NOISE).save(tmp_path / "image.png")

    def load(self):
        raise kind

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError, match=rf"image\.png: cannot be decoded \({kind.__name__}\)"):
        read_image(tmp_path / "image.png")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name, (image, options, *_) in KINDS.items():
        image.save(folder / name, **options)
    Image.fromarray(NOISE).save(folder / "photo.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    Image.fromarray(NOISE).save(folder / "photo.avif")
    Image.fromarray(NOISE).save(folder / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(NOISE).save(folder / "photo.jp2")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.data())
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_image_is_read_or_refused_by_name(originals, tmp_path, capfd, data):
    name = data.draw(st.sampled_from(sorted(originals)))
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        content[start : start + len(new)] = new
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = read_image(path).image.mode
        except DataError as error:
            outcome = str(error)
    assert outcome == "RGB" or outcome.startswith(f"{path}: ")
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 50))
@example(16000, 1, 224)
@example(1, 16000, 224)
@examples(50)
def test_the_centre_of_any_shape_is_cropped_before_it_is_resized(width, height, side):
    ramp = np.broadcast_to((np.arange(width) * 255 // width).astype(np.uint8), (height, width))
    image = resize_and_crop(Image.fromarray(ramp).convert("RGB"), side)
    assert image.size == (side, side)
    visible = min(width, height)
    left = (width - visible) / 2
    assert np.asarray(image).mean() == pytest.approx((left + visible / 2) * 255 / width, abs=255 / width + 1.5)


def test_the_conversion_stores_what_was_read_and_counts_what_it_changed(tmp_path):
    root, out = class_folders(tmp_path / "images"), tmp_path / "out"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    changed = {"alpha.png": {}, "deep.png": {}, "frames.gif": {}, "rgb.bmp": {"exif": exif}}
    for name, options in changed.items():
        image, more, *_ = KINDS[name]
        image.save(root / "train" / "bee" / name.replace("bmp", "png"), **options, **more)
    done = run(ForkedCommand(["-m", "data.convert", "--root", str(root), "--out", str(out), "--shards", "1"]))
    assert (done.returncode, done.stderr) == (0, "")
    line = f"1 {DEPTH}, 1 {GREY}, 1 palette converted to RGB, 1 {FIRST}, 1 {TURNED}, 1 {WHITE}"
    assert f"note: images changed when read: {line}\n" in done.stdout
    stored = b"".join(path.read_bytes() for path in out.glob("train-*"))
    assert np.rot90(NOISE, -1).tobytes() in stored
    for name in changed:
        path = root / "train" / "bee" / name.replace("bmp", "png")
        assert np.asarray(read_image(path).image).tobytes() in stored
