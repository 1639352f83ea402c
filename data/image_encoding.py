"""How the conversion decodes and stores images. Stored JPEGs are decoded in data.reading."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.errors import DataError
from data.sources.source import Source

LARGEST_SIDE = 16384  # pixels: a page of FFCV holds any image up to this size
DEFAULT_LONGEST_SIDE = 500  # pixels, for images of different sizes or of one larger size
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # raised by PIL
_DEEP_MODES = ("I", "F")  # prefixes of modes with more than 8 bits per channel, whose conversion would clip values
_MODE_NAMES = {
    "1": "greyscale",
    "L": "greyscale",
    "LA": "greyscale",
    "La": "greyscale",
    "P": "palette",
    "PA": "palette",
    "RGBA": "transparent",
    "RGBa": "transparent",
}


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        resolution: side of the stored images in pixels; if sizes are mixed, the longest side.
        mode: "raw" or "jpg".
        quality: JPEG quality, 1 to 100.
        resize: resize the shorter side of images of other sizes and crop the centre, instead of rejecting them.
        mixed: keep the shape of every image, and its size unless a side is longer than `resolution`.
    """

    resolution: int
    mode: str
    quality: int
    resize: bool
    mixed: bool


class StoredImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        pixels: uint8 (height, width, 3).
        converted_from: kind of image that was converted to RGB, such as "greyscale"; empty for RGB images.
    """

    pixels: np.ndarray
    label: int
    converted_from: str


def choose_encoding(source: Source, mode: str | None, quality: int) -> tuple[Encoding, list[str]]:
    """The encoding for a source without a given size, and a note about it.

    Images of one size, with no side longer than 500 pixels, are stored as they are; otherwise shapes are kept, longer
    sides are shrunk to 500 pixels, and images are stored as JPEG unless a mode is given.
    """
    size = common_size(source)
    if size is not None and max(size) <= DEFAULT_LONGEST_SIDE:
        note = f"all images are {size[0]}x{size[1]} pixels and are stored at this size"
        return Encoding(max(size), mode or "raw", quality, resize=False, mixed=size[0] != size[1]), [note]
    encoding = Encoding(DEFAULT_LONGEST_SIDE, mode or "jpg", quality, resize=False, mixed=True)
    sizes = "images have different sizes" if size is None else f"all images are {size[0]}x{size[1]} pixels"
    note = (
        f"{sizes}: they keep their shapes, sides longer than {DEFAULT_LONGEST_SIDE} pixels are "
        f"shrunk, and they are stored as {'JPEG' if encoding.mode == 'jpg' else 'raw bytes'}, as with "
        f"--longest-side {DEFAULT_LONGEST_SIDE} --mode {encoding.mode}"
    )
    return encoding, [note]


def common_size(source: Source) -> tuple[int, int] | None:
    """Width and height of all images, pixels; None if they differ. Reads file headers only."""
    common = None
    for split in ("train", "val"):
        images = source.split(split)
        for index in range(len(images)):
            try:
                size = images[index][0].size
            except DECODE_ERRORS:
                continue  # reported when the image is stored
            if size != (common or size):
                return None
            common = size
    return common


def load_image(source: Source, split: str, index: int, encoding: Encoding) -> StoredImage:
    """Decodes an image and brings it into the form that is stored.

    Raises:
        DataError: the image cannot be decoded, or the encoding does not permit its size or its kind.
    """
    name = source.name(split, index)
    try:
        image, label = source.split(split)[index]
        image.load()
    except DECODE_ERRORS as error:
        raise DataError(f"{name}: cannot be decoded ({error}); remove it, or use --skip-bad") from error
    if image.mode.startswith(_DEEP_MODES):
        raise DataError(
            f"{name}: mode {image.mode} has more than 8 bits per channel; convert it to 8 bits, or use --skip-bad"
        )
    converted_from = "" if image.mode == "RGB" else _MODE_NAMES.get(image.mode, image.mode)
    image = to_rgb(image)
    if not (encoding.mixed or encoding.resize) and image.size != (encoding.resolution, encoding.resolution):
        raise DataError(
            f"{name}: {image.width}x{image.height} pixels instead of {encoding.resolution}x{encoding.resolution}; "
            "use --resize to resize and crop such images, --longest-side to keep their shapes, or --skip-bad"
        )
    image = to_stored_size(image, encoding.resolution, encoding.mixed)
    if not 0 <= label < len(source.classes):
        raise DataError(f"{name}: label {label}, but there are {len(source.classes)} classes")
    return StoredImage(np.asarray(image), label, converted_from)


def to_rgb(image: Image.Image) -> Image.Image:
    """Transparency is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct conversion prints a warning
    return image if image.mode == "RGB" else image.convert("RGB")


def to_stored_size(image: Image.Image, resolution: int, mixed: bool) -> Image.Image:
    """An image of the size that is stored: no side longer than `resolution` if sizes are mixed, else a square."""
    if mixed:
        return shrink(image, resolution)
    return image if image.size == (resolution, resolution) else resize_and_crop(image, resolution)


def shrink(image: Image.Image, longest: int) -> Image.Image:
    """Shrinks an image, keeping its shape, if a side is longer than this (pixels)."""
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Resizes the shorter side to this length (pixels) and crops the centre to a square."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
