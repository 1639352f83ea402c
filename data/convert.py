"""python -m data.convert: converts images to FFCV shards and a manifest."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from commandline import interrupts
from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

from commandline.arguments import ArgumentParser
from commandline.command import run_command
from commandline.paths import path_option
from data.errors import DataError
from data.image_encoding import DEFAULT_LONGEST_SIDE, LARGEST_SIDE, Encoding, choose_encoding
from data.image_reading import describe_changes
from data.manifest import MANIFEST, Manifest, Verify, read_manifest, verify
from data.sources.registry import DEFAULT_FRACTION, Kind, kind_of, open_source
from data.sources.source import Source
from data.sources.synthetic import SIDE
from data.writing.dataset_writer import DEFAULT_SHARDS, Converted, WriterOptions, convert_dataset
from data.writing.source_files import difference, summarise_files

_FILES = "files"  # in the manifest's source: the summary of the image files
_SMALL_IMAGES = SIDE  # pixels: side of CIFAR-100's and of the synthetic images
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
        type=_positive,
        default=200,
        metavar="N",
        help="synthetic: training images per class, and a fifth as many for validation (default: %(default)s)",
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
        help=f"side of the stored images, which are square, in pixels (default: {_SMALL_IMAGES} for cifar100 and "
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
        "--quality", type=_quality, default=95, metavar="N", help="JPEG quality, 1 to 100 (default: %(default)s)"
    )
    command.add_argument(
        "--shards",
        type=_positive,
        metavar="N",
        help=f"number of shards per split (default: {DEFAULT_SHARDS}, or one per image in smaller splits)",
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="skip images that cannot be stored, and list them in the manifest"
    )
    command.add_argument(
        "--workers",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of writer processes (default: one per core, here %(default)s)",
    )
    command.add_argument(
        "--timeout",
        type=_seconds,
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


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _side(text: str) -> int:
    value = _positive(text)
    if value > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{value} is more than {LARGEST_SIDE} pixels")
    return value


def _quality(text: str) -> int:
    value = _positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"must be 1 to 100, got {value}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return value


def _amount(text: str) -> int | float:
    """A number of images, or a fraction of them."""
    if text.isdecimal() and int(text) >= 1:
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


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: converted, or converted before; 1: failed; 2: wrong usage or input; 128 + a signal's number."""

    def run(arguments: list[str]) -> int:
        try:
            with interrupts.raised_as_exceptions():
                return _convert(parser().parse_args(arguments))
        except interrupts.Interrupted as interrupted:
            print(f"{interrupted}: nothing was converted", file=sys.stderr)
            return interrupted.exit_code

    return run_command(run, argv)


def _convert(args: argparse.Namespace) -> int:
    if args.longest_side and args.resize:
        raise DataError("--longest-side keeps the shapes of images, --resize makes them square: use one of them")
    args.source = args.source or (Kind.cifar100 if args.download else kind_of(args.root)).value
    options = _given_options(args)
    if (args.out / MANIFEST).exists() and not args.overwrite:
        print(f"{args.out}: already converted; {_check_existing(args, options, read_manifest(args.out))}")
        return 0
    start = time.monotonic()
    source, notes = _open_source(args)
    encoding, more = _encoding(args, source)
    for note in notes + more:
        print(f"note: {note}", flush=True)
    files = None if args.root is None else summarise_files(source, args.root)
    writing = WriterOptions(args.shards, args.workers, args.timeout, args.skip_bad, args.overwrite)
    converted = convert_dataset(source, args.out, encoding, writing, {**options, _FILES: files})
    for note in _notes(args.out, converted):
        print(f"note: {note}")
    manifest = converted.manifest
    counts = " + ".join(f"{manifest.samples(split)} {split}" for split in manifest.splits)
    print(f"{args.out}: {counts} images, {len(manifest.classes)} classes, {time.monotonic() - start:.1f} s")
    return 0


def _open_source(args: argparse.Namespace) -> tuple[Source, list[str]]:
    return open_source(Kind(args.source), args.root, args.download, args.per_class, args.hold_out)


def _check_existing(args: argparse.Namespace, options: dict[str, Any], manifest: Manifest) -> str:
    """Checks that the dataset in --out is what this command would write; returns what was compared.

    Raises:
        DataError: it was converted with other options or from other files, or its shards are damaged.
    """
    _check_same_options(args.out, manifest.source, options)
    verify(args.out, manifest, Verify.always if args.verify else Verify.sizes)
    shards = "its shards have the recorded " + ("SHA-256" if args.verify else "sizes (--verify compares SHA-256)")
    files = manifest.source.get(_FILES)
    if files is None:
        return shards
    if not args.root.exists():
        return f"{shards}; {args.root} is gone, so its images were not compared"
    changed = difference(files, summarise_files(_open_source(args)[0], args.root))
    if changed:
        raise DataError(
            f"{args.root} changed since {args.out} was converted: {changed}. Use --overwrite to convert again, or "
            "another --out"
        )
    return f"{shards}, and the image files have not changed"


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that determine the result, for the manifest; None where the conversion chooses."""
    names = ("hold_out", "resolution", "longest_side", "resize", "mode", "quality", "shards", "skip_bad")
    options = {"source": args.source, "root": None if args.root is None else str(args.root.resolve())}
    options |= {name: getattr(args, name) for name in names}
    return options | ({"per_class": args.per_class} if args.source == Kind.synthetic else {})


def _check_same_options(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"--{name.replace('_', '-')} was {_shown(before.get(name))}, now {_shown(now.get(name))}"
        for name in dict.fromkeys([*now, *before])
        if name != _FILES and (before.get(name) or None) != (now.get(name) or None)
    ]
    if changed:
        raise DataError(
            f"{out} was converted with other options: {', '.join(changed)}. Use another --out, or --overwrite"
        )


def _shown(value: Any) -> str:
    return "not given" if value is None or value is False else "given" if value is True else str(value)


def _encoding(args: argparse.Namespace, source: Source) -> tuple[Encoding, list[str]]:
    """How images are stored, and notes about what was chosen."""
    mode = args.mode or "raw"
    if args.longest_side:
        return Encoding(args.longest_side, mode, args.quality, resize=False, mixed=True), []
    if args.resolution or args.source != Kind.folder:
        resolution = args.resolution or _SMALL_IMAGES
        return Encoding(resolution, mode, args.quality, args.resize, mixed=False), []
    if args.resize:
        raise DataError("--resize needs a size: add --resolution N, the side of the stored images in pixels")
    return choose_encoding(source, args.mode, args.quality)


def _notes(out: Path, converted: Converted) -> list[str]:
    """What was changed, skipped or found in the images."""
    notes, manifest = describe_changes(converted.changes), converted.manifest
    if manifest.skipped:
        count = len(manifest.skipped)
        subject = "1 image that cannot be stored was" if count == 1 else f"{count} images that cannot be stored were"
        notes.append(f"{subject} skipped; listed under 'skipped' in {out / MANIFEST}")
    if converted.duplicates:
        notes.append(
            f"{converted.duplicates} of {manifest.samples('val')} validation images have exactly the pixels of a "
            "training image: the validation accuracy will be too high"
        )
    return notes


if __name__ == "__main__":
    sys.exit(main())
