"""Batches on the device: the order of the epoch, FFCV's bytes, the augmentation."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from data.augment.image_transforms import Augment
from data.augment.mixup_cutmix import MixupCutmix
from data.augment.pipeline import Prepare, preparation
from data.augment.progressive_resizing import ProgressiveResizing
from data.augment.random_resized_crop import CropBoxes, RandomResizedCrop
from data.errors import DataError
from data.manifest import Manifest
from data.reading.device_cache import Cache, Where, wanted
from data.reading.shard_reader import Batch as Bytes
from data.reading.shard_reader import ShardReader
from data.sampler import epoch_order, rank_batch, share, trainable_steps


class Batch(NamedTuple):
    """One rank's part of a global batch.

    Attributes:
        images: float32 (n, 3, side, side), channels last, normalised, on the device.
        labels: int64 (n,), on the device.
        targets: what the loss compares with: `labels`, or float32 (n, classes) where samples are mixed.
        global_size: samples in the global batch, over all ranks; in an evaluation, where ranks go on by
            themselves, in this part alone.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    global_size: int


@dataclass(frozen=True)
class Place:
    """Where batches are wanted: this rank of so many, on this device."""

    rank: int
    world: int
    device: torch.device


class Source(Protocol):
    """Bytes of samples on the device."""

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[Bytes]:
        """The samples of each list of ids, in that order; images may be overwritten once the next are asked for.

        Args:
            boxes: what to cut out of the split's images, which are whole by default.
        """


class StreamedSource:
    """What the reader decodes, which re-uses its tensors, copied to the device beside the step before."""

    def __init__(self, reader: ShardReader, device: torch.device) -> None:
        self.reader, self.device = reader, device
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        self.copied = torch.cuda.Event() if on_gpu else None

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[Bytes]:
        with closing(self.reader.read(split, batches, boxes)) as decoded:
            for batch in decoded:
                yield self.copy(*batch)
                if self.copied is not None:
                    self.copied.synchronize()  # long since, mostly: the reader may fill its buffer again

    def copy(self, images: Tensor, labels: Tensor, ids: Tensor) -> Bytes:
        """A decoded batch on the device; on a CPU its images and ids stay where the reader will write the next."""
        if self.stream is None or self.copied is None:
            # They are used up before the next batch is asked for; labels go to the consumer.
            return images, labels.clone(), ids
        with torch.cuda.stream(self.stream):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in (images, labels, ids)]
            self.copied.record()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.copied)  # on the device: the host goes on and hands it the step
        for copy in copies:
            copy.record_stream(current)
        return copies[0], copies[1], copies[2]


class TrainingLoader:
    """All training samples once an epoch, in a new order each epoch.

    Args:
        augment: for the side that images have in the end.
        growth: of that side.
        mix: of samples with one another.
        cut: what is cut out of them, if they are not whole.
        window: of the order; see data.order.
        batch_size: samples of a global step, over all ranks.
        drop_last: leave out the epoch's last batch if it is smaller.
        record: what may make a function of tensors a recorded one; batches are then overwritten by the next.
        source: opened for at least `largest_part(batch_size, place)` samples a batch, twice as many if they are mixed.

    Raises:
        DataError: the last batch has too few samples to give every rank two, which BatchNorm needs.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        growth: ProgressiveResizing,
        mix: MixupCutmix,
        cut: RandomResizedCrop | None,
        window: int,
        samples: int,
        batch_size: int,
        drop_last: bool,
        place: Place,
        record: Callable[[Prepare], Prepare] = lambda prepare: prepare,
    ) -> None:
        self.source, self.augment, self.growth, self.mix, self.place = source, augment, growth, mix, place
        self.cut, self.window = cut, window
        self.samples, self.batch_size = samples, batch_size
        self.steps = trainable_steps(samples, batch_size, drop_last, place.world)
        self.dropped = max(0, samples - self.steps * batch_size)
        self._record, self._prepared = record, dict[int, Prepare]()

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of one epoch (from 0), from step `first_step` on."""
        place, size = self.place, self.batch_size
        augment = self.augment.at(self.growth.side(epoch))
        prepare = self._preparation(augment)
        boxes = None if self.cut is None else self.cut.training(epoch, augment.resolution)
        order = epoch_order(self.samples, augment.seed, epoch, self.window)
        steps = range(first_step, self.steps)
        parts = [rank_batch(order, step, size, place.rank, place.world) for step in steps]
        if self.mix.wanted:
            parts = [torch.cat([ids, self.mix.partners(ids, epoch)]) for ids in parts]
        with closing(self.source.read("train", parts, boxes)) as batches:
            for step, (stored, labels, ids) in zip(steps, batches, strict=True):
                yield Batch(*prepare(stored, labels, ids, epoch), min(size, self.samples - step * size))

    def _preparation(self, augment: Augment) -> Prepare:
        """Of images of that side; one recording serves all epochs."""
        if augment.resolution not in self._prepared:
            self._prepared[augment.resolution] = self._record(preparation(augment, self.mix))
        return self._prepared[augment.resolution]


class EvaluationLoader:
    """Every sample of a split exactly once over all ranks, in the stored order, unchanged, or its middle.

    Args:
        batch_size: samples of a step, over all ranks.

    Attributes:
        steps: the most batches that any rank has.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        cut: RandomResizedCrop | None,
        samples: int,
        batch_size: int,
        place: Place,
    ) -> None:
        self.source, self.augment = source, augment
        self.boxes = None if cut is None else cut.evaluation(augment.resolution)
        self.samples = samples
        own = torch.arange(samples)[share(samples, place.rank, place.world)]
        size = largest_part(min(batch_size, samples), place)
        self.steps = math.ceil(largest_part(samples, place) / size)
        self._parts = list(own.split(size)) if len(own) else []

    def __iter__(self) -> Generator[Batch]:
        with closing(self.source.read("val", self._parts, self.boxes)) as batches:
            for images, labels, _ in batches:
                yield Batch(self.augment.evaluation(images), labels, labels, len(labels))


def largest_part(samples: int, place: Place) -> int:
    """The most samples that any rank gets of so many."""
    return math.ceil(samples / place.world)


@dataclass(frozen=True)
class LoaderOptions:
    """How the shards are read: see the options of the same names in the configuration."""

    resolution: int
    initial_resolution: int
    progressive_resizing_epochs: int
    batch_size: int
    drop_last: bool
    workers: int
    prefetch_batches: int
    loader_timeout: float
    cache: str
    shuffle_window: int
    keep_page_cache: bool
    center_crop_ratio: float
    flip: bool
    crop_padding: int
    rrc_min_scale: float
    cutout_size: int
    randaugment_num_ops: int
    randaugment_magnitude: int
    mixup_prob: float
    cutmix_prob: float
    seed: int


def check_sizes(directory: Path, manifest: Manifest, rrc_min_scale: float) -> None:
    """Raises DataError for images of mixed sizes that are wanted whole."""
    if manifest.mixed and not rrc_min_scale:
        raise DataError(f"{directory}: images of mixed sizes, of which augment.rrc_min_scale must say what to take")


def open_loaders(
    directory: Path,
    manifest: Manifest,
    options: LoaderOptions,
    place: Place,
    record: Callable[[Prepare], Prepare] = lambda prepare: prepare,
) -> tuple[TrainingLoader, EvaluationLoader]:
    """Training and evaluation batches of a verified data set.

    Args:
        record: what may make a function of tensors a recorded one.

    Raises:
        DataError: the options ask for what these shards cannot give.
    """
    check_sizes(directory, manifest, options.rrc_min_scale)
    cuts = options.rrc_min_scale > 0
    augment = Augment(
        manifest.mean,
        manifest.std,
        options.resolution,
        place.device,
        flip=options.flip,
        crop_padding=options.crop_padding,
        cutout=options.cutout_size,
        operations=options.randaugment_num_ops,
        magnitude=options.randaugment_magnitude,
        seed=options.seed,
    )
    growth = ProgressiveResizing(options.initial_resolution, options.resolution, options.progressive_resizing_epochs)
    samples, classes = manifest.samples("train"), len(manifest.classes)
    mix = MixupCutmix(options.mixup_prob, options.cutmix_prob, samples, classes, options.seed)
    # A larger batch than there are samples asks for no more memory than they take.
    most = max(manifest.samples(split) for split in manifest.splits)
    size = largest_part(min(options.batch_size, most), place) * (2 if mix.wanted else 1)
    forget_every = 0 if options.keep_page_cache else math.ceil(max(options.shuffle_window, 1) / options.batch_size)
    reader = ShardReader(
        directory, manifest, size, options.workers, options.prefetch_batches, options.loader_timeout, forget_every
    )
    cut = (
        RandomResizedCrop(reader.sizes, options.rrc_min_scale, options.center_crop_ratio, options.seed)
        if cuts
        else None
    )
    cached = not cuts and wanted(Where(options.cache), manifest, place.device)
    source = Cache(reader, manifest, size, place.device) if cached else StreamedSource(reader, place.device)
    batch_size = options.batch_size
    return (
        TrainingLoader(
            source,
            augment,
            growth,
            mix,
            cut,
            options.shuffle_window,
            samples,
            batch_size,
            options.drop_last,
            place,
            record,
        ),
        EvaluationLoader(source, augment, cut, manifest.samples("val"), batch_size, place),
    )
