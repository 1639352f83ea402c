"""How the conversion stores images. Stored JPEGs are decoded in data.reading."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.errors import DataError
from data.image_reading import naming, size_as_read, to_rgb
from data.sources.source import Source

LARGEST_SIDE = 16384  # pixels: a page of FFCV holds any image up to this size
DEFAULT_LONGEST_SIDE = 500  # pixels, for images of different sizes or of one larger size


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
        changes: what was done to the image when it was read, see `data.image_reading`.
    """

    pixels: np.ndarray
    label: int
    changes: tuple[str, ...]


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
                with naming(source.name(split, index)), images[index][0] as image:
                    size = size_as_read(image)
            except DataError:
                continue  # reported when the image is stored
            if size != (common or size):
                return None
            common = size
    return common


def load_image(source: Source, split: str, index: int, encoding: Encoding) -> StoredImage:
    """Reads an image and brings it into the form that is stored.

    Raises:
        DataError: the image cannot be read, or the encoding does not permit its size.
    """
    name = source.name(split, index)
    with naming(name, "; remove it, or use --skip-bad"):
        image, label = source.split(split)[index]
        with image:
            image, changes = to_rgb(image)
        if not (encoding.mixed or encoding.resize) and image.size != (encoding.resolution, encoding.resolution):
            raise DataError(
                f"{name}: {image.width}x{image.height} pixels instead of {encoding.resolution}x{encoding.resolution}; "
                "use --resize to resize and crop such images, --longest-side to keep their shapes, or --skip-bad"
            )
        pixels = np.asarray(to_stored_size(image, encoding.resolution, encoding.mixed))
    if not 0 <= label < len(source.classes):
        raise DataError(f"{name}: label {label}, but there are {len(source.classes)} classes")
    return StoredImage(pixels, label, changes)


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
    """The largest square around the centre, resized to this side (pixels).

    Nothing else is resized: the long side of a 16000x1 image would become millions of pixels long.
    """
    square = min(image.size)
    left, top = ((length - square) / 2 for length in image.size)
    box = (left, top, left + square, top + square)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)
