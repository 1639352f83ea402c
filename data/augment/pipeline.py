"""The augmentation pipeline: image transforms -> resize and normalise -> Mixup or CutMix."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from data.augment import AugmentOptions
from data.augment.image_transforms import ImageTransforms
from data.augment.mixup_cutmix import MixupCutmix
from data.augment.progressive_resizing import ProgressiveResizing
from data.augment.random_resized_crop import CropBoxes, RandomResizedCrop
from data.augment.resize_normalize import ResizeNormalize
from data.manifest import Manifest
from data.rng import Column, random_table

# Stored images, labels, random numbers -> images, labels, targets, as data.loader.Batch has them.
BatchTransform = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

_TABLE_ROWS = 1 << 17  # samples whose random numbers are computed at once: 10 MB for 10 numbers of each


class TrainingPipeline:
    """Training images from stored bytes to the network's input.

    Args:
        options: the `augment` section of the configuration.
        manifest: of the dataset, for its channel statistics and its numbers of samples and classes.
        resizing: the side of the images in every epoch.
        seed: seed of the random numbers.
    """

    def __init__(
        self,
        options: AugmentOptions,
        manifest: Manifest,
        resizing: ProgressiveResizing,
        seed: int,
        device: torch.device,
    ) -> None:
        samples, classes = manifest.samples("train"), len(manifest.classes)
        self.options, self.manifest = options, manifest
        self.resizing, self.seed, self.device = resizing, seed, device
        self.resize_normalize = ResizeNormalize(manifest.mean, manifest.std, resizing.final, device)
        self.mixup_cutmix = MixupCutmix(options.mixup_prob, options.cutmix_prob, samples, classes)
        self.random_resized_crop = RandomResizedCrop(options.rrc_min_scale, seed) if options.rrc_min_scale > 0 else None
        self._image_transforms: dict[int, ImageTransforms] = {}  # by side of their images

    @property
    def images_per_sample(self) -> int:
        """Stored images that are read for every training sample: two where samples are mixed."""
        return 2 if self.mixup_cutmix.enabled else 1

    def ids_to_read(self, batches: Sequence[Tensor], epoch: int) -> list[Tensor]:
        """The ids of each batch, followed by those of their Mixup and CutMix partners."""
        if not self.mixup_cutmix.enabled or not batches:
            return list(batches)
        partners = self.mixup_cutmix.partners(self.seed, epoch, torch.cat(list(batches)))
        pairs = zip(batches, partners.split([len(ids) for ids in batches]), strict=True)
        return [torch.cat(pair) for pair in pairs]

    def crop_boxes(self, sizes: Tensor, epoch: int) -> CropBoxes | None:
        """The crops of an epoch, given the stored sizes, int64 (samples, 2); None where images are used whole."""
        crop = self.random_resized_crop
        return None if crop is None else crop.boxes(sizes, epoch, self.resizing.side(epoch))

    def random_numbers(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The random numbers for each batch of ids in turn: int64 (ids, columns), on the device.

        Many batches at once, because a table takes as many kernels as the numbers of one batch; but not all, because
        the temporary memory is several times that of the table.
        """
        columns = self._columns(self.resizing.side(epoch))
        at_once = max(1, _TABLE_ROWS // max((len(ids) for ids in batches), default=1))
        for first in range(0, len(batches), at_once):
            block = batches[first : first + at_once]
            ids = torch.cat(list(block)).to(self.device, non_blocking=True)
            yield from random_table(self.seed, epoch, columns, ids).split([len(ids) for ids in block])

    def at(self, side: int) -> BatchTransform:
        """A function of tensors: transforms a batch whose ids are those of `ids_to_read` to images of this side."""
        return partial(self._transform, self._transforms_at(side), self.resize_normalize.at(side))

    def _transforms_at(self, side: int) -> ImageTransforms:
        """The image transforms of an epoch whose images have this side."""
        stored = self.manifest.resolution if self.random_resized_crop is None else side
        if stored not in self._image_transforms:
            self._image_transforms[stored] = ImageTransforms(self.options, self.manifest.mean, stored, self.device)
        return self._image_transforms[stored]

    def _columns(self, side: int) -> list[Column]:
        mixing = self.mixup_cutmix.columns if self.mixup_cutmix.enabled else ()
        return [*self._transforms_at(side).columns, *mixing]

    def _transform(
        self,
        image_transforms: ImageTransforms,
        resize_normalize: ResizeNormalize,
        stored: Tensor,
        labels: Tensor,
        numbers: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        for_images, for_mixing = numbers.tensor_split([len(image_transforms.columns)], dim=1)
        images = resize_normalize(image_transforms(stored, for_images))
        if not self.mixup_cutmix.enabled:
            return images, labels, labels
        mixed, targets = self.mixup_cutmix.mix(images, labels, for_mixing.chunk(2)[0])
        return mixed, labels.chunk(2)[0], targets
