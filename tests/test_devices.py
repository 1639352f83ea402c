"""Everything is computed on the given device: on the meta device, which mixes with no other one and needs no GPU."""

import pytest
import torch
from manifests import VALID

from data.augment.image_transforms import ImageTransforms
from data.augment.mixup_cutmix import MixupCutmix
from data.augment.pipeline import TrainingPipeline
from data.augment.progressive_resizing import ProgressiveResizing
from data.augment.resize_normalize import ResizeNormalize
from data.rng import random_table
from regnet.config.schema import AugmentConfig
from regnet.distributed.world import World
from regnet.metrics.evaluation import EvaluationAccumulator
from regnet.metrics.training import TrainingAccumulator

META = torch.device("meta")
SINGLE_PROCESS = World(0, 1, 0, META, None, None)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
SIDE, COUNT, CLASSES = 12, 4, 7


def images(count=COUNT):
    return torch.empty(count, SIDE, SIDE, 3, dtype=torch.uint8, device=META)


def tensors_of(thing):
    return [value for value in vars(thing).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(
    "options",
    [{"flip": True}, {"crop_padding": 2}, {"cutout_size": 3}, {"randaugment_num_ops": 2}],
    ids=lambda options: next(iter(options)),
)
def test_transforms_of_stored_images_compute_on_their_device(options):
    transforms = ImageTransforms(AugmentConfig(**{"flip": False, "crop_padding": 0} | options), MEAN, SIDE, META)
    assert {tensor.device for transform in transforms.transforms for tensor in tensors_of(transform)} <= {META}
    numbers = random_table(1, 2, transforms.columns, torch.arange(COUNT, device=META))
    found = transforms(images(), numbers)
    assert (found.device, found.dtype, found.shape) == (META, torch.uint8, images().shape)


@pytest.mark.parametrize("resolution", [SIDE, SIDE + 4, SIDE - 4])
def test_resizing_and_normalisation_compute_on_the_device_of_the_images(resolution):
    transform = ResizeNormalize(MEAN, STD, resolution, META)
    assert {tensor.device for tensor in tensors_of(transform)} == {META}
    found = transform(images())
    assert (found.device, found.dtype, found.shape) == (META, torch.float32, (COUNT, 3, resolution, resolution))


def test_mixup_and_cutmix_compute_on_the_device_of_the_images():
    transform = MixupCutmix(0.3, 0.3, 100, CLASSES)
    numbers = random_table(1, 2, transform.columns, torch.arange(COUNT, device=META))
    batch = torch.empty(2 * COUNT, 3, SIDE, SIDE, device=META)
    mixed, targets = transform.mix(batch, torch.zeros(2 * COUNT, dtype=torch.int64, device=META), numbers)
    assert mixed.device == targets.device == META


@pytest.mark.parametrize("rrc_min_scale", [0, 0.3])
def test_the_training_pipeline_computes_on_the_device_of_its_images(rrc_min_scale):
    options = AugmentConfig(flip=True, crop_padding=2, cutout_size=3, mixup_prob=0.5, rrc_min_scale=rrc_min_scale)
    train = TrainingPipeline(options, VALID, ProgressiveResizing(24, 24, 0), 1, META)
    (numbers,) = train.random_numbers([torch.arange(2 * COUNT)], 0)
    side = 24 if rrc_min_scale else VALID.resolution
    stored = torch.empty(2 * COUNT, side, side, 3, dtype=torch.uint8, device=META)
    found = train.at(24)(stored, torch.zeros(2 * COUNT, dtype=torch.int64, device=META), numbers)
    assert {tensor.device for tensor in (numbers, *found)} == {META}
    assert found[0].shape == (COUNT, 3, 24, 24)
    assert {tensor.device for tensor in tensors_of(train.resize_normalize)} == {META}


def test_metrics_are_accumulated_on_the_device_of_the_logits():
    logits = torch.empty(COUNT, CLASSES, device=META)
    labels = torch.zeros(COUNT, dtype=torch.int64, device=META)
    training, evaluation = TrainingAccumulator(CLASSES, META), EvaluationAccumulator(CLASSES, META)
    training.update(logits, labels, torch.zeros((), device=META))
    evaluation.update(logits, labels)
    for accumulator in (training, training.summed(SINGLE_PROCESS), evaluation):
        assert {tensor.device for tensor in tensors_of(accumulator)} == {META}
