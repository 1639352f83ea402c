"""Images into FFCV shards and a manifest: python -m data.convert --source cifar100 --root DIR --out DIR --shards 4

Each shard is written by its own process; the manifest comes last, so an interrupted conversion leaves none
and is simply run again.
"""

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import DataError
from data.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from data.sampler import rank_slice
from data.shard_writer import LARGEST_SIDE, ChannelSums, Encoding, load_pixels, write_shard
from data.sources.registry import Kind, Source, hold_out, open_source

# Forked, a writer shares the images that its parent has in memory (150 MB of CIFAR-100) instead of a copy.
_fork = multiprocessing.get_context("fork")


class WriterError(RuntimeError):
    """A writer failed, died or hung; not the images' fault. Exit status 1."""


@dataclass(frozen=True)
class Task:
    """One shard to write."""

    split: str
    path: Path
    first_id: int
    indices: list[int]  # into the source's split


class _Writer:
    """A process that writes one shard, and what is known of its progress."""

    def __init__(self, task: Task, source: Source, encoding: Encoding) -> None:
        self.task = task
        self.done: Synchronized = _fork.Value("Q", 0)
        self.seen, self.seen_at = 0, time.monotonic()
        self.results, child_end = _fork.Pipe(duplex=False)
        self.process = ForkProcess(target=_work, args=(task, source, encoding, self.done, child_end), daemon=True)
        self.process.start()
        child_end.close()

    def check(self, timeout: float) -> tuple[Shard, ChannelSums] | None:
        """The result, or None while the writer is at work.

        Raises:
            DataError, WriterError: it refused an image, failed, died, or made no progress for `timeout` seconds.
        """
        if self.results.poll():
            try:
                result = self.results.recv()
            except EOFError:
                self.process.join()
                raise WriterError(f"{self.task.path.name}: its writer died ({self._exit()})") from None
            self.process.join()
            if isinstance(result, Exception):
                raise result
            return result
        if self.done.value != self.seen:
            self.seen, self.seen_at = self.done.value, time.monotonic()
        elif time.monotonic() - self.seen_at > timeout:
            raise WriterError(f"{self.task.path.name}: its writer made no progress for {timeout:g} s and was killed")
        return None

    def _exit(self) -> str:
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.task.path.with_name(f".{self.task.path.name}.tmp").unlink(missing_ok=True)


def _work(task: Task, source: Source, encoding: Encoding, done: Synchronized, results: Connection) -> None:
    try:
        results.send(write_shard(source, task.split, task.indices, task.first_id, task.path, encoding, done))
    except DataError as error:
        results.send(error)
    except OSError as error:
        results.send(WriterError(f"{task.path.name}: {error}"))


def convert_dataset(
    source: Source,
    out: Path,
    shards: int,
    encoding: Encoding,
    workers: int,
    timeout: float,
    skip_bad: bool,
    record: dict[str, Any],
) -> Manifest:
    """Writes all shards, `workers` at a time, then the manifest.

    Raises:
        DataError: an image that cannot be stored, or fewer images than shards.
        WriterError: a writer failed, died, or made no progress for `timeout` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    tasks, skipped = _plan(source, out, shards, encoding, skip_bad)
    written: dict[Path, Shard] = {}
    sums = ChannelSums()
    waiting, active = list(reversed(tasks)), list[_Writer]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("converting", total=sum(len(task.indices) for task in tasks))
        finished = 0
        try:
            while waiting or active:
                while waiting and len(active) < workers:
                    active.append(_Writer(waiting.pop(), source, encoding))
                for writer in list(active):
                    result = writer.check(timeout)
                    if result is None:
                        continue
                    written[writer.task.path], shard_sums = result
                    if writer.task.split == "train":
                        sums.merge(shard_sums)
                    finished += len(writer.task.indices)
                    active.remove(writer)
                progress.update(bar, completed=finished + sum(writer.seen for writer in active))
                time.sleep(0.02)
        finally:
            for writer in active:
                writer.kill()
    mean, std = sums.mean_and_std()
    splits = {split: tuple(written[task.path] for task in tasks if task.split == split) for split in ("train", "val")}
    side, classes = encoding.resolution, tuple(source.classes)
    manifest = Manifest(record, side, encoding.mixed, classes, mean, std, splits, tuple(skipped))
    write_manifest(out, manifest)
    return manifest


def _clear(out: Path) -> None:
    """Removes what was converted here before: without a manifest shards are worth nothing, and they take room."""
    (out / MANIFEST).unlink(missing_ok=True)
    for split in ("train", "val"):
        for shard in out.glob(f"{split}-*-of-*.beton"):
            shard.unlink()


def _plan(source: Source, out: Path, shards: int, encoding: Encoding, skip_bad: bool) -> tuple[list[Task], list[str]]:
    tasks, skipped = [], []
    for split in ("train", "val"):
        indices = list(range(len(source.split(split))))
        if skip_bad:
            bad = [index for index in indices if not _loads(source, split, index, encoding)]
            skipped += [source.name(split, index) for index in bad]
            indices = sorted(set(indices) - set(bad))
        if len(indices) < shards:
            raise DataError(f"{len(indices)} {split} images cannot fill {shards} shards: choose a smaller --shards")
        for shard in range(shards):
            part = rank_slice(len(indices), shard, shards)
            path = out / f"{split}-{shard:05d}-of-{shards:05d}.beton"
            tasks.append(Task(split, path, part.start, indices[part]))
    return tasks, skipped


def _loads(source: Source, split: str, index: int, encoding: Encoding) -> bool:
    try:
        load_pixels(source, split, index, encoding)
    except DataError:
        return False
    return True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message}; see python -m data.convert --help")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m data.convert", description=__doc__)
    parser.add_argument("--source", type=Kind, required=True, help=", ".join(Kind))
    parser.add_argument("--root", type=Path, help="where the images are: a directory, or CIFAR-100's official tar.gz")
    parser.add_argument("--download", action="store_true", help="cifar100: fetch it into --root if it is not there")
    parser.add_argument("--per-class", type=_positive, default=200, help="synthetic: training images of each class")
    parser.add_argument(
        "--hold-out", type=_positive, help="training images that validate in place of the test images, to tune by"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the shards")
    parser.add_argument("--shards", type=_positive, default=4, help="files of each split")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--resolution", type=_side, help="side of the stored images, pixels (32)")
    size.add_argument(
        "--longest-side", type=_side, help="keep mixed sizes, and shrink images that have a side longer than this"
    )
    parser.add_argument("--mode", choices=("raw", "jpg"), default="raw", help="raw bytes, or JPEG for larger images")
    parser.add_argument("--quality", type=_positive, default=95, help="of JPEG, 1 to 100")
    parser.add_argument("--resize", action="store_true", help="bring other sizes to --resolution, cutting the centre")
    parser.add_argument("--convert-rgb", action="store_true", help="accept grey-scale, palette, transparent images")
    parser.add_argument("--skip-bad", action="store_true", help="leave out and list images that cannot be stored")
    parser.add_argument("--workers", type=_positive, default=len(os.sched_getaffinity(0)), help="writers at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without progress that end a writer")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set converted with other options")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _side(text: str) -> int:
    value = _positive(text)
    if value > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{value} is more than {LARGEST_SIDE} pixels")
    return value


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 done (or done before), 1 failed, 2 wrong usage or input."""
    try:
        args = _parse(argv)
        if args.longest_side and args.resize:
            raise DataError("--longest-side keeps the images' shapes, --resize makes them square: choose one")
        side, mixed = args.longest_side or args.resolution or 32, args.longest_side is not None
        encoding = Encoding(side, args.mode, args.quality, args.resize, args.convert_rgb, mixed)
        root = None if args.root is None else str(args.root.resolve())
        record = {"kind": str(args.source), "root": root, "shards": args.shards, **asdict(encoding)}
        if args.source is Kind.synthetic:
            record["per_class"] = args.per_class
        if args.hold_out:
            record["hold_out"] = args.hold_out
        if (args.out / MANIFEST).exists() and not args.overwrite:
            before = read_manifest(args.out).source
            changed = [
                f"{key} ({before.get(key)} then, {record.get(key)} now)"
                for key in dict.fromkeys([*record, *before])
                if before.get(key) != record.get(key)
            ]
            if changed:
                what = ", ".join(changed)
                raise DataError(f"{args.out} was converted with other options: {what}; another --out, or --overwrite")
            print(f"{args.out}: already converted")
            return 0
        source = open_source(args.source, args.root, args.download, args.per_class)
        if args.hold_out:
            source = hold_out(source, args.hold_out)
        began = time.monotonic()
        manifest = convert_dataset(
            source, args.out, args.shards, encoding, args.workers, args.timeout, args.skip_bad, record
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (WriterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = " + ".join(f"{manifest.samples(split)} {split}" for split in manifest.splits)
    print(f"{args.out}: {counts} images, {len(manifest.classes)} classes, {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
