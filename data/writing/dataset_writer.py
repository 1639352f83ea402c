"""Writes a converted dataset: all shards, each in its own process, and then the manifest."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import DataError
from data.image_encoding import Encoding
from data.manifest import Manifest
from data.open_files import allow_open_files
from data.sampler import rank_slice
from data.sources.source import Source
from data.writing.channel_statistics import ChannelStatistics
from data.writing.options import DEFAULT_SHARDS, WriterOptions
from data.writing.output_directory import install, private_directory
from data.writing.shard_writer import WrittenShard
from data.writing.writer_process import BadImages, ShardTask, WriterProcess, start_writer

SPLITS = ("train", "val")
_FILES_PER_WRITER = 8  # open in this process: pipes, among others


@dataclass(frozen=True)
class Converted:
    """A new dataset.

    Attributes:
        changes: numbers of images that were changed when read, by kind, see `data.image_reading`.
        duplicates: number of validation images with the pixels of a training image.
    """

    manifest: Manifest
    changes: Counter[str]
    duplicates: int


def convert_dataset(
    source: Source, out: Path, encoding: Encoding, options: WriterOptions, record: dict[str, Any]
) -> Converted:
    """Writes all shards, then the manifest; until then `out`, which is locked, keeps the dataset that it holds.

    Args:
        record: the options of the conversion, for the manifest.

    Raises:
        DataError: an image cannot be stored, there are fewer images than shards, or a class has no training image.
        WriterError: a writer failed, died, or made no progress for `options.timeout` seconds.
    """
    allow_open_files(_FILES_PER_WRITER * options.workers, f"--workers {options.workers}", "use fewer --workers")
    with private_directory(out) as private:
        written, skipped = _write_good_images(source, private, encoding, options)
        converted = _describe(source, encoding, record, written, skipped)
        install(private, out, converted.manifest)
    return converted


def _write_good_images(
    source: Source, directory: Path, encoding: Encoding, options: WriterOptions
) -> tuple[dict[str, list[WrittenShard]], dict[str, set[int]]]:
    """The shards of each split, and the indices of the images that were skipped.

    Sample ids are consecutive, so bad images change the ids in all later shards: when the writers find some, everything
    is written again without them. Images are decoded once if all are good, which is the usual case.
    """
    bad: dict[str, set[int]] = {split: set() for split in SPLITS}
    reasons: list[str] = []
    while True:
        tasks = _plan(source, directory, options.shards, bad, reasons)
        results = _run_writers(tasks, source, encoding, options)
        found = [
            (task.split, result) for task, result in zip(tasks, results, strict=True) if isinstance(result, BadImages)
        ]
        if not found:
            written: dict[str, list[WrittenShard]] = {split: [] for split in SPLITS}
            for task, result in zip(tasks, results, strict=True):
                assert isinstance(result, WrittenShard)
                written[task.split].append(result)
            return written, bad
        for split, images in found:
            bad[split].update(images.indices)
            reasons.append(images.reason)
        for path in directory.iterdir():
            path.unlink()


def _plan(
    source: Source, directory: Path, shards: int | None, bad: dict[str, set[int]], reasons: Sequence[str]
) -> list[ShardTask]:
    tasks = []
    _check_classes(source, bad["train"], reasons)
    for split in SPLITS:
        indices = [index for index in range(len(source.split(split))) if index not in bad[split]]
        if not indices:
            raise DataError(f"there are no {split} images that can be stored{_such_as(reasons)}")
        count = min(DEFAULT_SHARDS, len(indices)) if shards is None else shards
        if len(indices) < count:
            raise DataError(f"{len(indices)} {split} images cannot fill {count} shards; use a smaller --shards")
        for shard in range(count):
            part = rank_slice(len(indices), shard, count)
            path = directory / f"{split}-{shard:05d}-of-{count:05d}.beton"
            tasks.append(ShardTask(split, path, part.start, indices[part]))
    return tasks


def _check_classes(source: Source, bad: set[int], reasons: Sequence[str]) -> None:
    """Raises DataError unless there are two classes, each with a training image."""
    if len(source.classes) < 2:
        raise DataError(f"the images have only {len(source.classes)} class; a classifier needs at least two")
    labels = Counter(label for index, label in enumerate(source.train.targets) if index not in bad)
    for label, name in enumerate(source.classes):
        if not labels[label]:
            raise DataError(f"class {name} has no training image that can be stored{_such_as(reasons)}")


def _such_as(reasons: Sequence[str]) -> str:
    return f": {reasons[0]}" if reasons else ""


def _run_writers(
    tasks: Sequence[ShardTask], source: Source, encoding: Encoding, options: WriterOptions
) -> list[WrittenShard | BadImages]:
    """The results of all tasks, in their order; `options.workers` at a time."""
    results: dict[Path, WrittenShard | BadImages] = {}
    pending, active = list(reversed(tasks)), list[WriterProcess]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("converting", total=sum(len(task.indices) for task in tasks))
        finished = 0
        try:
            while pending or active:
                while pending and len(active) < options.workers:
                    start_writer(active, pending.pop(), source, encoding, options.skip_bad)
                for writer in list(active):
                    result = writer.check(options.timeout)
                    if result is None:
                        continue
                    results[writer.task.path] = result
                    finished += len(writer.task.indices)
                    active.remove(writer)
                progress.update(bar, completed=finished + sum(writer.samples for writer in active))
                time.sleep(0.02)
        finally:
            for writer in active:
                writer.kill()
    return [results[task.path] for task in tasks]


def _describe(
    source: Source,
    encoding: Encoding,
    record: dict[str, Any],
    written: dict[str, list[WrittenShard]],
    skipped: dict[str, set[int]],
) -> Converted:
    statistics, changes = ChannelStatistics(), Counter[str]()
    for split in SPLITS:
        for part in written[split]:
            changes += part.changes
            if split == "train":
                statistics.merge(part.statistics)
    mean, std = statistics.mean_and_std()
    manifest = Manifest(
        record,
        encoding.resolution,
        encoding.mixed,
        tuple(source.classes),
        mean,
        std,
        {split: tuple(part.shard for part in written[split]) for split in SPLITS},
        tuple(source.name(split, index) for split in SPLITS for index in sorted(skipped[split])),
    )
    train, val = (np.concatenate([part.images for part in written[split]]) for split in SPLITS)
    return Converted(manifest, changes, int(np.isin(val, train).sum()))
