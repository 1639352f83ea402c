"""The options of data.convert: what they mean, which of them exclude each other, and which determine the result."""

import argparse
import os
from typing import Any

from commandline.arguments import ArgumentParser, positive_integer, positive_number
from commandline.paths import path_option
from data.errors import DataError
from data.image_encoding import DEFAULT_LONGEST_SIDE, LARGEST_SIDE
from data.sources.registry import DEFAULT_FRACTION, Kind
from data.sources.synthetic import SIDE
from data.writing.options import DEFAULT_SHARDS

DEFAULT_SIDE = SIDE  # pixels, of CIFAR-100's and of the synthetic images
_DEFAULT_PER_CLASS, _DEFAULT_QUALITY = 200, 95
_DESCRIPTION = """\
Converts images to FFCV shards and a manifest.

The images of --source folder are in one folder per class, or in train/ and val/
(or test/) with one folder per class each. Images are turned upright as their
EXIF orientation says, composited on white, and converted to 8-bit RGB.
"""
_EXAMPLES = """\
examples:
  python -m data.convert --source cifar100 --root downloads --download --out shards/cifar100
  python -m data.convert --root DIR --out shards/mine
  python -m data.convert --root DIR --out shards/mine64 --resolution 64 --resize --hold-out 0.2
  python -m data.convert --source synthetic --per-class 200 --out shards/demo
"""


def parser() -> argparse.ArgumentParser:
    command = ArgumentParser(
        prog="python -m data.convert",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--source",
        choices=[str(kind) for kind in Kind],
        help="where the images come from (default: cifar100 if --root is its folder or archive, otherwise folder)",
    )
    command.add_argument(
        "--root",
        type=path_option,
        metavar="DIR",
        help="directory of the images, or CIFAR-100's tar.gz; unused for synthetic",
    )
    command.add_argument(
        "--out", type=path_option, required=True, metavar="DIR", help="directory for the shards and the manifest"
    )
    command.add_argument("--download", action="store_true", help="cifar100: download it into --root if it is not there")
    command.add_argument(
        "--per-class",
        type=positive_integer,
        metavar="N",
        help="synthetic: training images per class, and a fifth as many for validation "
        f"(default: {_DEFAULT_PER_CLASS})",
    )
    command.add_argument(
        "--hold-out",
        type=_amount,
        metavar="N",
        help="use this many training images, or this fraction of them (such as 0.2), as the validation split, "
        "stratified by class (default: the source's own validation split, "
        f"or {DEFAULT_FRACTION} for a folder without one)",
    )
    size = command.add_mutually_exclusive_group()
    size.add_argument(
        "--resolution",
        type=_side,
        metavar="N",
        help=f"side of the stored images, which are square, in pixels (default: {DEFAULT_SIDE} for cifar100 and "
        f"synthetic; for a folder, the size of its images if all have the same, up to {DEFAULT_LONGEST_SIDE} pixels, "
        "else --longest-side applies)",
    )
    size.add_argument(
        "--longest-side",
        type=_side,
        metavar="N",
        help="keep the shapes of images, and shrink those with a side longer than this, in pixels "
        f"(default: {DEFAULT_LONGEST_SIDE} for a folder of images of different sizes or of one larger size)",
    )
    command.add_argument(
        "--resize",
        action="store_true",
        help="resize the shorter side of images of other sizes to --resolution and crop the centre",
    )
    command.add_argument(
        "--mode",
        choices=("raw", "jpg"),
        help="how images are stored: raw bytes or JPEG (default: raw; jpg for a folder of images of different sizes "
        f"or of one size above {DEFAULT_LONGEST_SIDE} pixels, without --longest-side and --resolution)",
    )
    command.add_argument(
        "--quality", type=_quality, metavar="N", help=f"JPEG quality, 1 to 100 (default: {_DEFAULT_QUALITY})"
    )
    command.add_argument(
        "--shards",
        type=positive_integer,
        metavar="N",
        help=f"number of shards per split (default: {DEFAULT_SHARDS}, or one per image in smaller splits)",
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="skip images that cannot be stored, and list them in the manifest"
    )
    command.add_argument(
        "--workers",
        type=positive_integer,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of writer processes (default: one per core, here %(default)s)",
    )
    command.add_argument(
        "--timeout",
        type=positive_number,
        default=120.0,
        metavar="SECONDS",
        help="abort if a writer makes no progress for this time (default: %(default)g)",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="convert again and replace the shards in --out; they stay valid until the new ones are complete",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="if --out was converted before, compare the SHA-256 of its shards, and not only their sizes",
    )
    return command


def _side(text: str) -> int:
    value = positive_integer(text)
    if value > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{value} is more than {LARGEST_SIDE} pixels")
    return value


def _quality(text: str) -> int:
    value = positive_integer(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"must be 1 to 100, got {value}")
    return value


def _amount(text: str) -> int | float:
    """A number of images, or a fraction of them."""
    if text.isdecimal() and len(text) <= 18 and int(text) >= 1:
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"must be a number of images such as 500, or a fraction between 0 and 1 such as 0.2, got {text!r}"
        )
    return value


def check_options(args: argparse.Namespace) -> None:
    """Raises DataError for options that exclude each other, or that the source would not use."""
    if args.longest_side and args.resize:
        raise DataError("--longest-side keeps the shapes of images, --resize makes them square: use one of them")
    if args.mode == "raw" and args.quality is not None:
        raise DataError("--quality is for JPEG, not for --mode raw: omit one of them")
    if args.source != Kind.synthetic and args.per_class is not None:
        raise DataError(f"--per-class is for --source synthetic, not for {args.source}")
    if args.source == Kind.synthetic and args.root is not None:
        raise DataError("--source synthetic generates its images: omit --root")
    if args.source in (Kind.folder, Kind.synthetic) and args.download:
        raise DataError(f"--download is for --source cifar100, not for {args.source}")


def per_class(args: argparse.Namespace) -> int:
    return _DEFAULT_PER_CLASS if args.per_class is None else args.per_class


def quality(args: argparse.Namespace) -> int:
    return _DEFAULT_QUALITY if args.quality is None else args.quality


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that determine the result, for the manifest; None where the conversion chooses."""
    names = ("source", "hold_out", "resolution", "longest_side", "resize", "mode", "shards", "skip_bad")
    options = {name: getattr(args, name) for name in names} | {"quality": quality(args)}
    return options | ({"per_class": per_class(args)} if args.source == Kind.synthetic else {})


def changed_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The options that differ from those of an earlier conversion, each with both values."""
    return [
        f"--{name.replace('_', '-')} was {_shown(before.get(name))}, now {_shown(value)}"
        for name, value in now.items()
        if (before.get(name) or None) != (value or None)
    ]


def _shown(value: Any) -> str:
    return "not given" if value is None or value is False else "given" if value is True else str(value)
