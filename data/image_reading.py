"""Reads images of any format that Pillow decodes as 8-bit RGB, for the conversion and for predictions alike.

docs/data.md lists what is done to which kind of image.
"""

import logging
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from data.errors import DataError

# Otherwise Python prints what Pillow logs, to stderr and without the name of the file. Errors are raised as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_UPRIGHT = {  # how to turn an image with this EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
_MODE_NAMES = {
    "1": "greyscale",
    "L": "greyscale",
    "LA": "greyscale",
    "P": "palette",
    "PA": "palette",
}
_WHITE_IS_ZERO = 0  # photometric interpretation of a TIFF image
_RGB_MODES = ("RGB", "RGBA", "RGBa", "RGBX")


class RgbImage(NamedTuple):
    """An image that was read.

    Attributes:
        image: mode RGB, decoded.
        changes: what was done to it apart from decoding, such as "rotated (EXIF orientation)".
    """

    image: Image.Image
    changes: tuple[str, ...]


class _UnsupportedError(ValueError):
    """An image of a kind that has no defined conversion to 8-bit RGB."""


def _formats() -> tuple[str, ...]:
    """The formats that the installed Pillow decodes by itself.

    Stubs and MPEG only identify files; EPS starts Ghostscript, which runs the file as a program.
    """
    Image.init()
    stubs = {
        name
        for name, (factory, _) in Image.OPEN.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    return tuple(sorted(set(Image.OPEN) - stubs - {"EPS", "MPEG"}))


FORMATS = _formats()
ENDINGS = frozenset(  # MPO files are JPEG files with several images
    ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)


def open_image(path: str | Path) -> Image.Image:
    """Opens an image file, of one of FORMATS whatever its ending, without decoding it."""
    if Path(path).exists() and not Path(path).is_file():  # opening a named pipe would wait for a writer
        raise _UnsupportedError("not a regular file")
    return Image.open(path, formats=FORMATS)


def read_image(path: str | Path) -> RgbImage:
    """Reads an image file. Raises DataError, which names the file, if that fails for any reason."""
    with naming(str(path)), open_image(path) as image:
        return to_rgb(image)


@contextmanager
def naming(name: str, cure: str = "") -> Iterator[None]:
    """Turns whatever Pillow raises, which is nearly every type of exception, into a DataError that names the image.

    Warnings about an image are not printed: they concern metadata, and Pillow does not say which image it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name}: {_reason(error)}{cure}") from error


def _reason(error: Exception) -> str:
    match error:
        case _UnsupportedError():
            return str(error)
        case UnidentifiedImageError():
            return "cannot be decoded (not an image of a known format)"
        case Image.DecompressionBombError():
            return f"cannot be decoded ({error.args[0].partition(',')[0]})"
        case OSError(strerror=str(reason)):
            return f"cannot be read ({reason})"
    return f"cannot be decoded ({str(error) or type(error).__name__})"


def to_rgb(image: Image.Image) -> RgbImage:
    """Decodes an opened image: its first frame, upright, on white, 8 bits per channel, RGB."""
    changes = []
    if getattr(image, "is_animated", False):
        changes.append("reduced to the first frame")
    rotated_by_pillow = image.format == "TIFF" and _orientation(image) in _UPRIGHT
    with _silent_libtiff() if image.format == "TIFF" else nullcontext():
        image.load()
    orientation = _orientation(image)
    rgb = image if image.mode == "RGB" and not image.has_transparency_data else _converted(image, changes)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation in _UPRIGHT or rotated_by_pillow:
        changes.append("rotated (EXIF orientation)")
    return RgbImage(rgb, tuple(changes))


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Discards what is written to standard error: libtiff's messages, which do not name the file.

    Pillow raises an error as well, and does not set libtiff's handler of messages.
    """
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def size_as_read(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as `to_rgb` returns it, read from the header."""
    width, height = image.size
    if image.format == "TIFF":  # already exchanged
        return width, height
    if image.format == "PNG" and "exif" not in image.info:  # getexif would decode all pixels in search of it
        return width, height
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int:
    """1 for upright, also if the metadata cannot be read: viewers show such images."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1


def _converted(image: Image.Image, changes: list[str]) -> Image.Image:
    """The image as RGB; appends to `changes`."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
        changes.append("16-bit scaled to 8 bits")
    if image.mode not in _RGB_MODES:
        changes.append(f"{_MODE_NAMES.get(image.mode, image.mode)} converted to RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    least_opaque, _ = rgba.getchannel("A").getextrema()
    if least_opaque == 255:
        return rgba.convert("RGB")
    changes.append("transparent composited on white")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The eight most significant bits of each value, which is what Pillow reads of 16-bit colour images.

    The range of 32-bit integers and floats is unknown, except that Pillow scales 16-bit PGM files to 0..65535.
    """
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        raise _UnsupportedError(
            f"mode {image.mode} has 32 bits per channel, of unknown range, and has to be converted to 8 bits"
        )
    values, bits = np.asarray(image), 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow returns the stored values
        (bits,) = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]
        if image.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == _WHITE_IS_ZERO:
            values = ~values
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def describe_changes(changes: Counter[str]) -> list[str]:
    """A line such as "images changed when read: 2 greyscale converted to RGB"; none if there is nothing to say."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(changes.items()))
    return [f"images changed when read: {kinds}"] if kinds else []
