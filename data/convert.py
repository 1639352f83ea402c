"""python -m data.convert: converts images to FFCV shards and a manifest."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import interrupts
from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

from commandline.command import run_command
from data.conversion_options import (
    DEFAULT_SIDE,
    changed_options,
    check_options,
    given_options,
    parser,
    per_class,
    quality,
)
from data.errors import DataError, import_errors
from data.image_encoding import Encoding, choose_encoding
from data.image_reading import describe_changes
from data.manifest import MANIFEST, Manifest, Verify, read_manifest, verify
from data.sources.registry import Kind, kind_of, open_source
from data.sources.source import Source
from data.writing.options import WriterOptions
from data.writing.output_directory import check_replaceable, delete_leftovers, exclusive
from data.writing.source_files import difference, summarise_files

if TYPE_CHECKING:
    from data.writing.dataset_writer import Converted

_ROOT, _FILES = "root", "files"  # in the manifest's source: where the images were, and a summary of their files


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
    if (args.out / MANIFEST).exists() and not args.overwrite:
        return _check_existing(args, read_manifest(args.out))
    args.source = args.source or _kind(args)
    check_options(args)
    with exclusive(args.out):
        if (args.out / MANIFEST).exists():
            if not args.overwrite:
                raise DataError(f"{args.out} was converted by another process just now; run the same command again")
            check_replaceable(args.out)
        return _convert_source(args)


def _convert_source(args: argparse.Namespace) -> int:
    start = time.monotonic()
    source, notes = _open_source(args)
    encoding, more = _encoding(args, source)
    for note in notes + more:
        print(f"note: {note}", flush=True)
    record = {**given_options(args), _ROOT: _resolved_root(args), _FILES: _summarise(args, source)}
    with import_errors(), interrupts.held_back():  # an exception of a signal can be lost in the middle of an import
        from data.writing.dataset_writer import convert_dataset  # here, because it is slow, and not needed for checks
    writing = WriterOptions(args.shards, args.workers, args.timeout, args.skip_bad)
    converted = convert_dataset(source, args.out, encoding, writing, record)
    for note in _notes(args.out, converted):
        print(f"note: {note}")
    manifest = converted.manifest
    counts = " + ".join(f"{manifest.samples(split)} {split}" for split in manifest.splits)
    print(f"{args.out}: {counts} images, {len(manifest.classes)} classes, {time.monotonic() - start:.1f} s")
    return 0


def _check_existing(args: argparse.Namespace, manifest: Manifest) -> int:
    """Checks that the dataset in --out is what this command would write, and prints what was compared.

    Raises:
        DataError: it was converted with other options or from other files, or its shards are damaged.
    """
    recorded = manifest.source
    gone = args.root is not None and not args.root.exists() and _resolved_root(args) == recorded.get(_ROOT)
    args.source = args.source or (recorded.get("source") if gone else _kind(args))
    check_options(args)
    if changed := changed_options(recorded, given_options(args)):
        raise DataError(
            f"{args.out} was converted with other options: {', '.join(changed)}. Use another --out, or --overwrite"
        )
    verify(args.out, manifest, Verify.always if args.verify else Verify.sizes)
    compared = "its shards have the recorded " + ("SHA-256" if args.verify else "sizes (--verify compares SHA-256)")
    files = recorded.get(_FILES)
    if not gone:
        _check_same_files(args, recorded.get(_ROOT), files)
    if files:
        what = f"; {args.root} is gone, so its images were not compared"
        compared += what if gone else ", and the image files have not changed"
    if leftovers := delete_leftovers(args.out):
        print(f"note: {args.out}: deleted {leftovers} files and directories of an interrupted conversion")
    print(f"{args.out}: already converted; {compared}")
    return 0


def _check_same_files(args: argparse.Namespace, root: str | None, files: dict[str, Any] | None) -> None:
    """Raises DataError unless --root has the image files that are recorded; they may have been moved there."""
    changed = difference(files, _summarise(args, _open_source(args)[0]))
    if not changed:
        return
    where = f"{args.root} changed since {args.out} was converted"
    if _resolved_root(args) != root:
        where = f"{args.out} was converted from {root}, not from {args.root}"
    raise DataError(f"{where}: {changed}. Use --overwrite to convert again, or another --out")


def _kind(args: argparse.Namespace) -> str:
    return (Kind.cifar100 if args.download else kind_of(args.root)).value


def _open_source(args: argparse.Namespace) -> tuple[Source, list[str]]:
    return open_source(Kind(args.source), args.root, args.download, per_class(args), args.hold_out)


def _summarise(args: argparse.Namespace, source: Source) -> dict[str, Any] | None:
    return None if args.root is None else summarise_files(source, args.root)


def _resolved_root(args: argparse.Namespace) -> str | None:
    return None if args.root is None else str(args.root.resolve())


def _encoding(args: argparse.Namespace, source: Source) -> tuple[Encoding, list[str]]:
    """How images are stored, and notes about what was chosen."""
    encoding, notes = _choose_encoding(args, source)
    if args.quality is not None and encoding.mode == "raw":
        raise DataError("--quality is for JPEG, but these images are stored as raw bytes: add --mode jpg")
    return encoding, notes


def _choose_encoding(args: argparse.Namespace, source: Source) -> tuple[Encoding, list[str]]:
    mode = args.mode or "raw"
    if args.longest_side:
        return Encoding(args.longest_side, mode, quality(args), resize=False, mixed=True), []
    if args.resolution or args.source != Kind.folder:
        resolution = args.resolution or DEFAULT_SIDE
        return Encoding(resolution, mode, quality(args), args.resize, mixed=False), []
    if args.resize:
        raise DataError("--resize needs a size: add --resolution N, the side of the stored images in pixels")
    return choose_encoding(source, args.mode, quality(args))


def _notes(out: Path, converted: "Converted") -> list[str]:
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
