"""From stored bytes to what a network is given: augmented, and mixed with other samples."""

from collections.abc import Callable

from torch import Tensor

from data.augment.image_transforms import Augment
from data.augment.mixup_cutmix import MixupCutmix
from data.rng import Epoch

# Stored images, labels, ids, epoch -> images, labels, targets, as data.loader's Batch has them.
Prepare = Callable[[Tensor, Tensor, Tensor, Epoch], tuple[Tensor, Tensor, Tensor]]


def preparation(augment: Augment, mix: MixupCutmix) -> Prepare:
    """What prepares a batch, in which the partners of mixed samples follow the samples; a function of tensors alone."""

    def prepare(stored: Tensor, labels: Tensor, ids: Tensor, epoch: Epoch) -> tuple[Tensor, Tensor, Tensor]:
        images = augment.training(stored, ids, epoch)
        if not mix.wanted:
            return images, labels, labels
        mixed, targets = mix.mixed(images, labels, ids.chunk(2)[0], epoch)
        return mixed, labels.chunk(2)[0], targets

    return prepare
