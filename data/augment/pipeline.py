"""The augmentation pipeline: image transforms -> resize and normalise -> Mixup or CutMix."""

from collections.abc import Callable
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
from data.rng import EpochNumber

# Stored images, labels, ids, epoch -> images, labels, targets, as data.loader.Batch has them.
BatchTransform = Callable[[Tensor, Tensor, Tensor, EpochNumber], tuple[Tensor, Tensor, Tensor]]


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
        self.image_transforms = ImageTransforms(options, manifest.mean, seed, device)
        self.resize_normalize = ResizeNormalize(manifest.mean, manifest.std, resizing.final, device)
        self.mixup_cutmix = MixupCutmix(options.mixup_prob, options.cutmix_prob, samples, classes, seed)
        self.random_resized_crop = RandomResizedCrop(options.rrc_min_scale, seed) if options.rrc_min_scale > 0 else None
        self.resizing = resizing

    @property
    def images_per_sample(self) -> int:
        """Stored images that are read for every training sample: two where samples are mixed."""
        return 2 if self.mixup_cutmix.enabled else 1

    def ids_to_read(self, ids: Tensor, epoch: int) -> Tensor:
        """The ids of a batch, followed by those of their Mixup and CutMix partners."""
        return torch.cat([ids, self.mixup_cutmix.partners(ids, epoch)]) if self.mixup_cutmix.enabled else ids

    def crop_boxes(self, sizes: Tensor, epoch: int) -> CropBoxes | None:
        """The crops of an epoch, given the stored sizes, int64 (samples, 2); None where images are used whole."""
        crop = self.random_resized_crop
        return None if crop is None else crop.boxes(sizes, epoch, self.resizing.side(epoch))

    def at(self, side: int) -> BatchTransform:
        """A function of tensors: transforms a batch whose ids are those of `ids_to_read` to images of this side."""
        return partial(self._transform, self.resize_normalize.at(side))

    def _transform(
        self, resize_normalize: ResizeNormalize, stored: Tensor, labels: Tensor, ids: Tensor, epoch: EpochNumber
    ) -> tuple[Tensor, Tensor, Tensor]:
        images = resize_normalize(self.image_transforms(stored, ids, epoch))
        if not self.mixup_cutmix.enabled:
            return images, labels, labels
        mixed, targets = self.mixup_cutmix.mix(images, labels, ids.chunk(2)[0], epoch)
        return mixed, labels.chunk(2)[0], targets
